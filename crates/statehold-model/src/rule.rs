//! The rules that the protocol rests on, each of which can be taken out to see what it is for.

/// A rule that a check can do without, to show which promise breaks.
///
/// The first four are the ones that the design names. The others are what the model asked for: the
/// design implies or omits them, and without any one of them a promise breaks as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Nothing is deleted before a `remove` says so. Without it a collector deletes what its `compact`
    /// condemned as soon as that stands in the log.
    SecondRecord,
    /// A record that names or introduces a condemned pack is void.
    CondemnCheck,
    /// Before a draft is sent to a further number, its nonce is looked for in every record since its base.
    NonceSearch,
    /// A retired record is cut down to its envelope and keeps its number. Without it the object is
    /// deleted and its number is free.
    EnvelopeStub,
    /// The id of a condemned pack stays in the state after the pack was removed.
    CondemnedForGood,
    /// A record that names content inside a retired record is void: the condemn check of content that
    /// rides in records.
    RetiredContent,
    /// Whoever reads an earlier point applies the moves of every `compact` since. Without it the tree at a
    /// point is the fold up to there, and names where content was then.
    MovesReachPoints,
    /// The checkpoint that stands in for retired records is stored and read back before the `remove` is
    /// sent.
    CheckpointFirst,
    /// A body is cut only if every retained point can be reached from a checkpoint without it.
    PointsBeforeCut,
    /// A replicator sends a record only when the one before it is known to stand at the replica.
    CopyInOrder,
    /// A mark is set when everything retained at it was read back from the replica. A record that was
    /// retired on the primary meanwhile came as an envelope, and then only a newer record can be marked.
    MarkReadBack,
    /// A `promote` continues from the replica's last complete mark, not from its last record.
    PromoteAtMark,
    /// A replica deletes what was removed up to a mark only when a record that was sent after the mark
    /// stands behind it, so that no `promote` that read an earlier mark can land any more.
    TidyBehindMark,
    /// A draft whose base is of an earlier epoch is not sent, but planned again: what it introduces was
    /// uploaded to another store. The fold makes such a record void.
    BaseOfThisEpoch,
    /// A draft that comes from another epoch is looked for from where the two logs part: neither the number
    /// of its old base nor the base of its new plan says how far back it may stand.
    SearchFromFork,
    /// A draft keeps its nonce when it is planned anew behind a `promote`.
    NonceAcrossEpochs,
    /// Only a record in effect counts as landed, not one that a `promote` left behind.
    LeftBehindIsNotLanded,
    /// Every record after a `fence` is void, and writers are told so before they send one.
    FenceEndsLog,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 18] = [
        Self::SecondRecord,
        Self::CondemnCheck,
        Self::NonceSearch,
        Self::EnvelopeStub,
        Self::CondemnedForGood,
        Self::RetiredContent,
        Self::MovesReachPoints,
        Self::CheckpointFirst,
        Self::PointsBeforeCut,
        Self::CopyInOrder,
        Self::MarkReadBack,
        Self::PromoteAtMark,
        Self::TidyBehindMark,
        Self::BaseOfThisEpoch,
        Self::SearchFromFork,
        Self::NonceAcrossEpochs,
        Self::LeftBehindIsNotLanded,
        Self::FenceEndsLog,
    ];
}

/// The rules in force: all of them, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    without: Option<Rule>,
}

impl Rules {
    /// All rules but one.
    pub const fn without(rule: Rule) -> Self {
        Self {
            without: Some(rule),
        }
    }

    /// Whether a rule is in force.
    pub fn hold(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
