//! By which mapping the NAT translated, for people.

use super::Nat;
use super::function::Staged;
use super::mapping::{Faces, MappingId};
use super::word::{End, Word};
use crate::explain::Notes;
use crate::walk::Walk;
use std::net::Ipv4Addr;

impl Nat {
    /// Says which mappings a decision used, or would make.
    pub(super) fn say_mappings(&self, walk: &Walk<'_>, staged: Option<&Staged>, notes: &mut Notes) {
        match staged {
            Some(Staged::Make(_, proposal)) => {
                notes.say("mapping", if proposal.is_static() { "new, by a rule" } else { "new" });
                notes.say("inside", &proposal.inside.endpoint);
                notes.say("external", &proposal.external);
            }
            Some(Staged::Join(_, mapping)) => self.say_mapping(*mapping, notes),
            Some(Staged::Addresses(_, inside, external)) => {
                notes.say("mapping", "new, of addresses");
                notes.say("inside", inside);
                notes.say("external", external);
            }
            Some(Staged::Refused(refusal, _)) => notes.say("refused", refusal),
            None => {
                let word = Word(walk.part().or(walk.related_part()).unwrap_or(0));
                for share in End::ALL.iter().filter_map(|&end| word.share(end)) {
                    self.say_mapping(share.mapping, notes);
                }
            }
        }
    }

    fn say_mapping(&self, mapping: MappingId, notes: &mut Notes) {
        let Some(Faces { inside, external }) = self.state().faces(mapping) else { return };
        notes.say("mapping", "known");
        notes.say("inside", &show(inside));
        notes.say("external", &show(external));
    }
}

fn show((address, port): (Ipv4Addr, Option<u16>)) -> String {
    port.map_or_else(|| address.to_string(), |port| format!("{address}:{port}"))
}
