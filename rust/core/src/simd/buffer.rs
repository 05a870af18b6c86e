//! Zeroed memory of floats, or of other stored numbers, aligned to cache lines.

use super::{LANES, Stored};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// A slice of numbers that starts on a cache line and whose memory ends on one. New ones are all zero.
#[derive(Clone)]
pub struct Buffer<S: Stored = f32> {
    lines: Vec<Line>,
    /// The first line in use: where there are large pages, their first.
    first: usize,
    len: usize,
    of: PhantomData<S>,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Buffer {
        Buffer::zeros(len)
    }

    /// A copy of `data`.
    pub fn from_slice(data: &[f32]) -> Buffer {
        let mut buffer = Buffer::zeroed(data.len());
        buffer.copy_from_slice(data);
        buffer
    }
}

impl<S: Stored> Buffer<S> {
    fn zeros(len: usize) -> Buffer<S> {
        let used = (len * size_of::<S>()).div_ceil(size_of::<Line>());
        let spare = if used >= PAGE { PAGE } else { 0 };
        let mut lines = Vec::with_capacity(used + spare);
        let first = if spare > 0 { large_pages(lines.spare_capacity_mut(), used / PAGE) } else { 0 };
        lines.resize(first + used, Line([0.0; LANES]));
        Buffer { lines, first, len, of: PhantomData }
    }

    /// The numbers of `data`, rounded where S is narrower.
    pub fn rounded(data: &[f32]) -> Buffer<S> {
        let mut buffer = Buffer::zeros(data.len());
        buffer.iter_mut().zip(data).for_each(|(to, &from)| *to = S::round(from));
        buffer
    }

    /// Memory, in bytes.
    pub fn nbytes(&self) -> usize {
        self.len * size_of::<S>()
    }
}

/// Lines of a large page.
const PAGE: usize = (2 << 20) / size_of::<Line>();

/// Asks for `count` large pages, before the memory is touched: reading it once then takes a tenth less time, as NumPy's arrays
/// have it. Returns their first line; there is room for one more page than that.
fn large_pages(lines: &mut [MaybeUninit<Line>], count: usize) -> usize {
    #[cfg(target_os = "linux")]
    {
        let page = PAGE * size_of::<Line>();
        let start = lines.as_ptr() as usize;
        let first = (start.next_multiple_of(page) - start) / size_of::<Line>();
        let from = lines[first..first + count * PAGE].as_mut_ptr();
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: whole pages of our own memory; the advice changes no contents, and an error means nothing changed.
        let _ = unsafe { rustix::mm::madvise(from.cast(), count * page, advice) };
        first
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (lines, count);
        0
    }
}

impl<S: Stored> std::ops::Deref for Buffer<S> {
    type Target = [S];
    fn deref(&self) -> &[S] {
        // SAFETY: `Line` is 64 bytes without padding, any bits are an S, and `len` is at most what the lines from
        // `first` on hold (`zeros`).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().wrapping_add(self.first).cast(), self.len) }
    }
}

impl<S: Stored> std::ops::DerefMut for Buffer<S> {
    fn deref_mut(&mut self) -> &mut [S] {
        // SAFETY: as in `deref`; `&mut self` makes the view unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().wrapping_add(self.first).cast(), self.len) }
    }
}

impl<S: Stored> std::fmt::Debug for Buffer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} x {})", self.len, S::STORAGE.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_zero() {
        for len in [0, 1, 15, 16, 17, 1000, PAGE * LANES - 1, PAGE * LANES, 2 * PAGE * LANES + 1] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert!(buffer.iter().chain(&*buffer.clone()).all(|&x| x == 0.0));
        }
    }
}
