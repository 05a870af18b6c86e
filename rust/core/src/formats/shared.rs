//! A pointer into a result that several tasks fill.

/// A pointer that tasks share. Whoever makes one hands every task a part of the memory of its own.
pub(super) struct Shared(*mut f32);

// SAFETY: the pointer is followed only in unsafe code, where each task answers for the part that it touches.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(memory: &mut [f32]) -> Shared {
        Shared(memory.as_mut_ptr())
    }

    pub fn get(&self) -> *mut f32 {
        self.0
    }
}
