//! The packed forms of one matrix that are in use: a network packs its weights once, however many batch sizes it meets.

use super::{KBlocks, Window};
use crate::simd::Target;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// What a packed form is made for, beside the matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form<'a> {
    /// What it is called: with its type, what tells it from others.
    pub name: &'static str,
    /// CPU target.
    pub target: Target,
    /// What the columns are, and how many groups of rows are packed each by itself.
    pub filters: (Window, usize),
    /// How the matrix meets the operand, if that is packed too.
    pub blocks: Option<&'a KBlocks>,
}

/// Forms of a matrix, each for as long as somebody holds it. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Packs(Arc<Mutex<Vec<Pack>>>);

struct Pack {
    name: &'static str,
    target: Target,
    filters: (Window, usize),
    blocks: Option<KBlocks>,
    packed: Weak<dyn Any + Send + Sync>,
}

impl Packs {
    /// A form that somebody holds, or a new one.
    pub fn get<T: Send + Sync + 'static>(&self, form: Form<'_>, pack: impl FnOnce() -> T) -> Arc<T> {
        let found = self.lock().iter().find_map(|held| held.is(form)?.downcast().ok());
        // Packed without the lock: packing shares its work with threads that may be waiting for it.
        found.unwrap_or_else(|| {
            let packed = Arc::new(pack());
            let held: Arc<dyn Any + Send + Sync> = packed.clone();
            let Form { name, target, filters, blocks } = form;
            let mut all = self.lock();
            all.retain(|pack| pack.packed.strong_count() > 0);
            all.push(Pack { name, target, filters, blocks: blocks.cloned(), packed: Arc::downgrade(&held) });
            packed
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pack>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Pack {
    fn is(&self, form: Form<'_>) -> Option<Arc<dyn Any + Send + Sync>> {
        let Pack { name, target, filters, .. } = *self;
        let same = Form { name, target, filters, blocks: self.blocks.as_ref() } == form;
        same.then(|| self.packed.upgrade()).flatten()
    }
}

impl fmt::Debug for Packs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|pack| pack.name)).finish()
    }
}

/// What is packed does not tell two matrices apart.
impl PartialEq for Packs {
    fn eq(&self, _: &Packs) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_packed_once_while_somebody_holds_it() {
        let (packs, blocks) = (Packs::default(), [KBlocks::new(vec![0, 1], 1), KBlocks::new(vec![0, 2], 1)]);
        let (target, filters) = (Target::scalar(), (Window::ONE, 1));
        let form = |at: usize| Form { name: "csr", target, filters, blocks: Some(&blocks[at]) };
        let first = packs.get(form(0), || 1);
        assert!(Arc::ptr_eq(&first, &packs.clone().get(form(0), || unreachable!())));
        assert_eq!(*packs.get(form(1), || 2), 2);
        assert_eq!(*packs.get(form(0), || "another type"), "another type");
        assert_eq!(*packs.get(Form { name: "block", ..form(0) }, || 3), 3);
        assert_eq!(*packs.get(Form { filters: (Window::ONE, 2), ..form(0) }, || 5), 5);
        drop(first);
        assert_eq!(*packs.get(form(0), || 4), 4);
    }
}
