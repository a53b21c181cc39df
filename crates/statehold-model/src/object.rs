//! What lies in a store: packs, records, trees; as small as can be.

use std::fmt;

/// A record's place in the log, from 1.
pub type Number = u8;

/// The name of a pack, unique per upload. Here every actor has its own, one for each of its plans.
pub type Pack = u8;

/// What a writer recognises its own record by.
pub type Nonce = u8;

/// A set of small numbers: packs, or places in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Few(u32);

/// Members of a [`Few`] are below this.
pub const FEW: u8 = 32;

impl Few {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The set with one member.
    pub fn of(member: u8) -> Self {
        let mut set = Self::default();
        set.insert(member);
        set
    }

    /// Puts a member in.
    pub fn insert(&mut self, member: u8) {
        debug_assert!(member < FEW, "{member} is no small number");
        self.0 |= 1 << member;
    }

    /// Whether it has a member.
    pub const fn contains(self, member: u8) -> bool {
        member < FEW && self.0 & (1 << member) != 0
    }

    /// What is in either.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one and not in the other.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members, smallest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u8> {
        (0..FEW).filter(move |member| self.contains(*member))
    }
}

impl fmt::Debug for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An object that content lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A pack.
    Pack(Pack),
    /// A record in which the content rides.
    Record(Number),
    /// The very record that says so; its number stands in its place once it has one.
    Own,
}

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// In which object.
    pub object: Object,
    /// Which of its chunks.
    pub chunk: u8,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            Object::Pack(pack) => write!(f, "pack {pack}.{}", self.chunk),
            Object::Record(number) => write!(f, "record {number}.{}", self.chunk),
            Object::Own => write!(f, "own.{}", self.chunk),
        }
    }
}

/// How many paths there are.
pub const PATHS: usize = 3;

/// A path, by its index.
pub type Path = usize;

/// The shared directory: where the content of each path lies.
pub type Tree = [Option<Place>; PATHS];

/// How many chunks a `compact` may move.
pub const MOVES: usize = 4;

/// Chunks that lie elsewhere now: from, to.
pub type Moves = [Option<(Place, Place)>; MOVES];

/// The id of a record: the digest of its envelope. Two records with one id are one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Id {
    /// Its number; 0 stands for the empty repository.
    pub number: Number,
    /// Its writer's nonce.
    pub nonce: Nonce,
    /// The epoch it was appended in.
    pub epoch: u8,
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Puts content at a path.
    Push {
        /// The path.
        path: Path,
        /// Where its content lies.
        place: Place,
        /// The pack that it names for the first time.
        introduces: Option<Pack>,
    },
    /// Brings back the tree of an earlier point.
    Rollback {
        /// That point.
        to: Number,
        /// Its tree, as the writer saw it.
        tree: Tree,
    },
    /// The first record of a collection: expires points, moves chunks, condemns packs.
    Compact {
        /// Points that are retained no longer.
        expire: Few,
        /// Packs that no record may name any more.
        condemn: Few,
        /// Chunks that were copied into the new pack.
        moves: Moves,
        /// The pack they were copied to.
        introduces: Option<Pack>,
    },
    /// The second one: what goes.
    Remove {
        /// Packs to delete.
        packs: Few,
        /// Records up to this one are cut down to their envelopes; 0 for none.
        cut: Number,
        /// The checkpoint that stands in for them.
        checkpoint: Number,
    },
    /// Ends a log.
    Fence,
    /// Opens a new epoch on a replica.
    Promote {
        /// The record whose state it continues from.
        from: Number,
        /// The new epoch.
        epoch: u8,
    },
}

/// Everything of a record but its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draft {
    /// Drawn before the first attempt.
    pub nonce: Nonce,
    /// The user's push that it carries out, by the number of its writer; collectors and owners have theirs.
    pub intent: u8,
    /// The newest record that its writer had seen.
    pub base: Id,
    /// What it does.
    pub kind: Kind,
}

/// A record: a draft in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// Its id.
    pub id: Id,
    /// The id of the record before it.
    pub parent: Id,
    /// What its writer said.
    pub draft: Draft,
}
