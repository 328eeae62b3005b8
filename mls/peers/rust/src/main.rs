//! Members of MLS groups that are played by OpenMLS and by mls-rs, driven by lines:
//! a request on standard input, its answer on standard output. README.md has the
//! verbs. An answer begins with `ok`, or with `err` and what the engine said.

mod mlsrs_peer;
mod openmls_peer;
mod peer;

use peer::{Change, Fallible, Opened, Peer};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn main() {
    // A panic is an answer, too.
    std::panic::set_hook(Box::new(|_| {}));
    let mut stage = Stage::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = catch_unwind(AssertUnwindSafe(|| stage.answer(&words)))
            .unwrap_or_else(|cause| Err(format!("panic: {}", reason(&*cause))));
        match answer {
            Ok(said) => writeln!(out, "ok {said}"),
            Err(said) => writeln!(out, "err {}", said.replace('\n', " ")),
        }
        .and_then(|()| out.flush())
        .expect("standard output is read");
    }
}

fn reason(cause: &(dyn std::any::Any + Send)) -> &str {
    cause
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| cause.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown kind")
}

#[derive(Default)]
struct Stage {
    peers: HashMap<String, Box<dyn Peer>>,
}

impl Stage {
    fn answer(&mut self, words: &[&str]) -> Fallible<String> {
        let (verb, name, args) = match words {
            [verb, name, args @ ..] => (*verb, *name, args),
            _ => return Err("a request is a verb, a name and arguments".into()),
        };
        match verb {
            "new" => return self.new_peer(name, args),
            "forget" => {
                self.peers.remove(name);
                return Ok(String::new());
            }
            _ => {}
        }
        let peer = self.peers.get_mut(name).ok_or("nobody has this name")?;
        match (verb, args) {
            ("keypackage", []) => peer.key_package().map(hex::encode),
            ("create", [id]) => {
                peer.create(&bytes(id)?)?;
                peer.state()
            }
            ("psk", [id, key]) => {
                peer.psk(&bytes(id)?, &bytes(key)?)?;
                Ok(String::new())
            }
            ("propose", [change]) => peer.propose(parse(change)?).map(hex::encode),
            ("commit", changes) => {
                let changes = changes.iter().map(|c| parse(c)).collect::<Fallible<Vec<_>>>()?;
                let (commit, welcome) = peer.commit(changes)?;
                Ok(format!("{} {}", hex::encode(commit), welcome.map_or("-".into(), hex::encode)))
            }
            ("merge", []) => {
                peer.merge()?;
                peer.state()
            }
            ("drop", []) => {
                peer.discard()?;
                Ok(String::new())
            }
            ("seal", [data]) => peer.seal(&bytes(data)?).map(hex::encode),
            ("open", [message]) => opened(&mut **peer, &bytes(message)?),
            ("join", [welcome]) => {
                peer.join(&bytes(welcome)?)?;
                peer.state()
            }
            ("info", []) => peer.info().map(hex::encode),
            ("external", [info]) => {
                let commit = peer.external(&bytes(info)?)?;
                Ok(format!("{} {}", hex::encode(commit), peer.state()?))
            }
            ("state", []) => peer.state(),
            // What a copy does, the peer has not done.
            ("try", [first @ .., last]) => {
                let mut copy = peer.copy()?;
                for message in first {
                    opened(&mut *copy, &bytes(message)?)?;
                }
                opened(&mut *copy, &bytes(last)?)
            }
            ("tryjoin", [welcome]) => {
                let mut copy = peer.copy()?;
                copy.join(&bytes(welcome)?)?;
                copy.state()
            }
            ("tryexternal", [info]) => {
                let mut copy = peer.copy()?;
                copy.external(&bytes(info)?)?;
                copy.state()
            }
            _ => Err("no such verb with so many arguments".into()),
        }
    }

    fn new_peer(&mut self, name: &str, args: &[&str]) -> Fallible<String> {
        let [engine, suite, framing] = args else {
            return Err("new takes an engine, a suite and a framing".into());
        };
        let suite: u16 = suite.parse().map_err(peer::said)?;
        let private = *framing == "private";
        let peer = match *engine {
            "openmls" => openmls_peer::new(name, suite, private)?,
            "mls-rs" => mlsrs_peer::new(name, suite, private)?,
            _ => return Err("no such engine".into()),
        };
        self.peers.insert(name.into(), peer);
        Ok(String::new())
    }
}

fn opened(peer: &mut dyn Peer, message: &[u8]) -> Fallible<String> {
    Ok(match peer.open(message)? {
        Opened::Application(sender, data) => format!("application {sender} {}", hex::encode(data)),
        Opened::Proposal => "proposal".into(),
        Opened::Removed => "removed".into(),
        Opened::Commit => format!("commit {}", peer.state()?),
    })
}

fn parse(change: &str) -> Fallible<Change> {
    let (kind, value) = change.split_once(':').ok_or("a change is a kind and a value")?;
    Ok(match kind {
        "add" => Change::Add(bytes(value)?),
        "remove" => Change::Remove(value.parse().map_err(peer::said)?),
        "update" => Change::Update,
        "psk" => Change::Psk(bytes(value)?),
        "context" => Change::Context(bytes(value)?),
        "path" => Change::Path,
        _ => return Err("no such change".into()),
    })
}

fn bytes(word: &str) -> Fallible<Vec<u8>> {
    hex::decode(word).map_err(peer::said)
}
