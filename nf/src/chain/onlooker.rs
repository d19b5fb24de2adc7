//! Who looks on while the functions of a chain decide.

use crate::explain::{Notes, Step};
use crate::function::Verdict;
use crate::slot::Stage;
use crate::walk::Walk;

/// Looks on while functions decide. Walks that nobody looks at have `()`, which costs nothing.
pub(crate) trait Onlooker {
    /// A function is about to decide.
    fn before(&mut self, walk: &Walk<'_>);
    /// It has.
    fn after(&mut self, walk: &Walk<'_>, stage: &dyn Stage, verdict: Verdict);
}

impl Onlooker for () {
    #[inline(always)]
    fn before(&mut self, _: &Walk<'_>) {}
    #[inline(always)]
    fn after(&mut self, _: &Walk<'_>, _: &dyn Stage, _: Verdict) {}
}

/// Writes down what it sees.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    edits: usize,
    frames: usize,
}

impl Onlooker for Steps {
    fn before(&mut self, walk: &Walk<'_>) {
        (self.edits, self.frames) = (walk.headers.edits().len(), walk.record.frames.len());
    }

    fn after(&mut self, walk: &Walk<'_>, stage: &dyn Stage, verdict: Verdict) {
        let mut notes = Notes::default();
        stage.explain(walk, &mut notes);
        self.steps.push(Step {
            function: stage.name().to_owned(),
            kind: stage.kind(),
            direction: walk.direction,
            hairpin: walk.hairpin,
            verdict,
            notes: notes.0,
            edits: walk.headers.edits().get(self.edits..).unwrap_or_default().to_vec(),
            frames: walk.record.frames.get(self.frames..).unwrap_or_default().to_vec(),
        });
    }
}
