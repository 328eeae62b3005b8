//! What a member can be asked to do, whichever engine plays it. All messages are
//! encoded MLSMessages.

use std::fmt::{Debug, Write};

/// What went wrong, in the engine's words.
pub type Fallible<T> = Result<T, String>;

pub fn said(error: impl Debug) -> String {
    format!("{error:?}")
}

/// A part of a commit, or a proposal.
pub enum Change {
    Add(Vec<u8>),
    Remove(u32),
    /// Only as a proposal.
    Update,
    /// The external pre-shared key with this id.
    Psk(Vec<u8>),
    /// The group context gets an extension of `CONTEXT_EXTENSION`, and
    /// required_capabilities that name it: OpenMLS wants it so.
    Context(Vec<u8>),
    /// Only in a commit: it has a path, needed or not.
    Path,
}

/// The extension that all members support and that commits change.
pub const CONTEXT_EXTENSION: u16 = 0xff00;

pub enum Opened {
    Application(u32, Vec<u8>),
    Proposal,
    /// A commit, merged.
    Commit,
    /// A commit that removes this member.
    Removed,
}

pub trait Peer {
    fn key_package(&mut self) -> Fallible<Vec<u8>>;
    fn create(&mut self, group_id: &[u8]) -> Fallible<()>;
    fn psk(&mut self, id: &[u8], key: &[u8]) -> Fallible<()>;
    fn propose(&mut self, change: Change) -> Fallible<Vec<u8>>;
    /// Makes a commit of these changes and of all proposals received, and a Welcome.
    fn commit(&mut self, changes: Vec<Change>) -> Fallible<(Vec<u8>, Option<Vec<u8>>)>;
    /// Enters the epoch of the own commit.
    fn merge(&mut self) -> Fallible<()>;
    /// Drops the own commit and the proposals received.
    fn discard(&mut self) -> Fallible<()>;
    fn seal(&mut self, data: &[u8]) -> Fallible<Vec<u8>>;
    fn open(&mut self, message: &[u8]) -> Fallible<Opened>;
    fn join(&mut self, welcome: &[u8]) -> Fallible<()>;
    fn info(&self) -> Fallible<Vec<u8>>;
    /// Joins by an external commit, which is returned. A member with the same
    /// signature key is removed.
    fn external(&mut self, info: &[u8]) -> Fallible<Vec<u8>>;
    fn state(&self) -> Fallible<String>;
    fn copy(&self) -> Fallible<Box<dyn Peer>>;
}

/// What members of an epoch have in common, as one line.
pub struct State {
    pub epoch: u64,
    pub authenticator: Vec<u8>,
    pub tree_hash: Vec<u8>,
    pub exported: Vec<u8>,
    /// Leaf, identity and signature key, in the order of the leaves.
    pub members: Vec<(u32, Vec<u8>, Vec<u8>)>,
}

pub const EXPORT_LABEL: &str = "peers";
pub const EXPORT_CONTEXT: &[u8] = b"context";
pub const EXPORT_LENGTH: usize = 32;

impl State {
    pub fn line(&self) -> String {
        let mut line = format!(
            "{} {} {} {} ",
            self.epoch,
            hex::encode(&self.authenticator),
            hex::encode(&self.tree_hash),
            hex::encode(&self.exported),
        );
        for (leaf, identity, key) in &self.members {
            let _ = write!(line, "{leaf}:{}:{},", hex::encode(identity), hex::encode(key));
        }
        line
    }
}
