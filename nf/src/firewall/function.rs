//! The firewall as a function of a chain: new connections by the rules, later packets by their session.

use super::classifier::ClassifierError;
use super::counters::{Counters, RuleCounters, RuleReport};
use super::explain::say_rule;
use super::log::{LogRecord, LoggedFlow, RuleLog};
use super::policy::{Change, DEFAULT_RULE, Judgement, Policy, touched_by};
use super::query::{Addresses, Query, Transport};
use super::rules::{Action, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Rule, RuleId};
use super::slots::RuleSlot;
use super::staged::{Outcome, Staged};
use super::word::{NOWHERE, Version, Word};
use crate::explain::Notes;
use crate::function::{FlowFunction, Verdict};
use crate::headers::answer::{IcmpError, icmp_error, tcp_reset};
use crate::headers::{Headers, icmpv4, icmpv6, protocol};
use crate::router::icmp_limit::{IcmpLimit, IcmpLimitConfig};
use crate::slices::depend_on_rules;
use crate::walk::{Commit, Direction, Tick, Walk};
use crate::zone::ZoneId;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{SessionId, Traffic};
use millrace_dataplane::flow::validity::Scoped;
use millrace_dataplane::ring::spsc::Producer;
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

/// A stateful firewall; see [`crate::firewall`].
#[derive(Debug)]
pub struct Firewall {
    policy: Policy,
    version: Version,
    counters: Counters,
    log: RuleLog,
    answers: IcmpLimit,
}

impl Firewall {
    /// A firewall with these rules, whose answers to rejected packets are limited like ICMP errors.
    pub fn new(policy: Policy, answers: IcmpLimitConfig) -> Self {
        let mut counters = Counters::default();
        let mut log = RuleLog::default();
        counters.fit(&policy);
        log.fit(&policy);
        Self { policy, version: Version::FIRST, counters, log, answers: IcmpLimit::new(answers) }
    }

    /// Records of logging rules go here from now on; see [`log_ring`](super::log::log_ring).
    pub fn log_to(&mut self, ring: Producer<LogRecord>) {
        self.log.connect(ring);
    }

    /// Flows of logging rules: recorded, and left out.
    pub fn log_totals(&self) -> (u64, u64) {
        self.log.totals()
    }

    /// The rules in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Adds a rule. Decisions that it can concern are taken anew, by their next packet; no others are (R8). `validity` is that
    /// of this firewall's chain.
    ///
    /// # Errors
    /// Why the rule can't be used; nothing has changed then.
    pub fn insert(&mut self, rule: Rule, validity: &mut Scoped<'_>) -> Result<(), ClassifierError> {
        rule.check()?;
        let touched = touched_by(&rule);
        self.policy.insert(rule)?;
        self.counters.fit(&self.policy);
        self.log.fit(&self.policy);
        self.version = self.version.next();
        validity.change_all(&touched);
        Ok(())
    }

    /// Removes a rule and returns it. Sessions that it admitted, and that no other rule admits, end with their next packet.
    pub fn remove(&mut self, id: RuleId, validity: &mut Scoped<'_>) -> Option<Arc<Rule>> {
        let (slot, rule) = self.policy.remove(id)?;
        self.counters.retire(slot);
        self.log.retire(slot);
        self.version = self.version.next();
        validity.change_all(&touched_by(&rule));
        Some(rule)
    }

    /// Takes a whole new policy, between bursts: costs what differs. The old one is given back, to be freed elsewhere.
    pub fn apply(&mut self, change: Change, validity: &mut Scoped<'_>) -> Policy {
        for slot in &change.removed {
            self.counters.retire(*slot);
            self.log.retire(*slot);
        }
        if !change.touched.is_empty() {
            self.version = self.version.next();
            validity.change_all(&change.touched);
        }
        self.counters.fit(&change.policy);
        self.log.fit(&change.policy);
        std::mem::replace(&mut self.policy, change.policy)
    }

    /// All rules in order with what they did, the default last. What entries of the flow cache carried counts once it is
    /// folded. Costs a copy of each rule's name: [`Self::rules_page`] bounds that.
    pub fn rules_report(&self) -> Vec<RuleReport> {
        let mut all = self.rules_page(None, usize::MAX);
        all.push(self.default_report());
        all
    }

    /// At most `count` rules in order, from the one behind `after` (order and identity) on.
    pub fn rules_page(&self, after: Option<(u64, RuleId)>, count: usize) -> Vec<RuleReport> {
        self.counters.report(&self.policy, after, count)
    }

    /// What the default did.
    pub fn default_report(&self) -> RuleReport {
        self.counters.default_report(&self.policy)
    }

    /// What rules did that are gone.
    pub fn removed_counters(&self) -> RuleCounters {
        self.counters.removed()
    }

    /// The name of a rule that decided.
    pub fn rule_name(&self, id: RuleId) -> Option<&str> {
        if id == DEFAULT_RULE {
            return Some("default");
        }
        self.policy.rule(id).map(|rule| rule.name.as_str())
    }

    /// A packet that belongs to no session that this firewall admitted.
    fn admit_new(&self, walk: &mut Walk<'_>) -> (Verdict, Option<Staged>) {
        if walk.session.is_none() && is_echo_reply(walk.headers) {
            return (Verdict::Drop(DropReason::IcmpUnrelated), None);
        }
        let reply = walk.session.is_some_and(|session| session.reply);
        let word = |from, to| Word { rule: RuleSlot::DEFAULT, version: self.version, from, to, turns: false };
        let Some(mut query) = query_of(walk, reply) else {
            let judgement = self.policy.default_judgement();
            return self.conclude(
                walk,
                judgement,
                word(Some(walk.from_zone), None),
                walk.hairpin,
                None,
                None,
            );
        };
        depend(walk, &query);
        (query.from_zone, query.to_zone) = zones_now(walk, reply);
        let judgement = self.policy.judge(&query);
        let flow = judgement.log.then_some(LoggedFlow {
            at: walk.now,
            addresses: query.addresses,
            protocol: query.protocol,
            transport: query.transport,
            from: walk.port,
            to: None,
        });
        let word = word(Some(query.from_zone), Some(query.to_zone));
        self.conclude(walk, judgement, word, walk.hairpin, None, flow)
    }

    /// A packet of a session that this firewall admitted: held against the rules again only if they have changed.
    fn admit_known(
        &self,
        walk: &mut Walk<'_>,
        id: SessionId,
        reply: bool,
        word: Word,
    ) -> (Verdict, Option<Staged>) {
        // A session of echoes lets its responder answer, not ask.
        if is_echo_reply(walk.headers) != (reply && is_echo(walk.headers)) {
            return (Verdict::Drop(DropReason::IcmpUnrelated), None);
        }
        walk.want_session();
        walk.track_tcp();
        let Some(mut query) = query_of(walk, reply) else { return (Verdict::Continue, None) };
        depend(walk, &query);
        // A later fragment can't be judged by itself; the next packet that can be will.
        if word.version == self.version || walk.headers.is_later_fragment() {
            return (Verdict::Continue, None);
        }
        // A hairpin has two views: the initiator's own, and the translated one, which its replies show first. The answer
        // must not depend on which packet happens to ask, so the initiator's view is judged between the zones of its opening.
        let forward = walk.direction == Direction::Forward;
        let turned = if reply { word.turns && forward && !walk.hairpin } else { walk.hairpin };
        let now = zones_now(walk, reply);
        query.from_zone = word.from.unwrap_or(now.0);
        query.to_zone = word.to.filter(|_| !turned).unwrap_or(now.1);
        let judgement = self.policy.judge(&query);
        self.conclude(walk, judgement, Word { version: self.version, ..word }, turned, Some(id), None)
    }

    /// An ICMP error goes with the session that it is about. A redirect is for the link where it was sent (RFC 1122 section 3.2.2.2).
    fn admit_error(walk: &mut Walk<'_>) -> (Verdict, Option<Staged>) {
        let redirects = walk.headers.icmpv4().is_some_and(|icmp| icmp.icmp_type == icmpv4::REDIRECT);
        let admitted = !redirects && walk.related_part().and_then(Word::unpack).is_some();
        (if admitted { Verdict::Continue } else { Verdict::Drop(DropReason::IcmpUnrelated) }, None)
    }

    #[inline(always)]
    fn conclude(
        &self,
        walk: &mut Walk<'_>,
        judgement: Judgement,
        word: Word,
        turned: bool,
        known: Option<SessionId>,
        flow: Option<LoggedFlow>,
    ) -> (Verdict, Option<Staged>) {
        let rule = judgement.slot;
        let bytes = walk.frame.len() as u64;
        if judgement.action == Action::Allow {
            walk.want_session();
            walk.track_tcp();
            let outcome =
                if turned { Outcome::TurnAdmitted } else { Outcome::Admitted(Word { rule, ..word }) };
            return (Verdict::Continue, Some(Staged { rule, bytes, outcome, flow }));
        }
        let answered = if judgement.action == Action::Reject { self.answer(walk) } else { None };
        let outcome = Outcome::Refused { cut: known, answered };
        (Verdict::Drop(DropReason::FirewallDenied), Some(Staged { rule, bytes, outcome, flow }))
    }

    /// Tells the sender of a packet that it was refused, in the name of the packet's destination. Who was told, if the rate
    /// and the packet allow it.
    fn answer(&self, walk: &mut Walk<'_>) -> Option<IpAddr> {
        let parsed = walk.headers.original();
        let (source, destination) = parsed.addresses()?;
        if !self.answers.peek(source, walk.now) {
            return None;
        }
        let mac = parsed.ethernet.destination;
        let frame = if parsed.protocol() == Some(protocol::TCP) {
            tcp_reset(parsed, walk.frame, mac)
        } else {
            icmp_error(parsed, walk.frame, IcmpError::Prohibited, mac, destination)
        }?;
        walk.emit(walk.port, &frame);
        Some(source)
    }
}

/// The zones of the initiator and of the responder, by the packet at hand. Also where no rule names the latter: later ones
/// may, and judge the session by what it was when it was opened.
fn zones_now(walk: &mut Walk<'_>, reply: bool) -> (ZoneId, ZoneId) {
    let to = walk.to_zone().unwrap_or(NOWHERE);
    if reply { (to, walk.from_zone) } else { (walk.from_zone, to) }
}

impl FlowFunction for Firewall {
    type Staged = Staged;

    fn kind(&self) -> &'static str {
        "firewall"
    }

    /// Whatever the rules are: a session's key holds addresses and ports anyway, type and code lie beside them, and so no
    /// change of rules changes a key.
    fn reads(&self) -> Reads {
        Reads::none().with(&[
            Field::Ipv4Source,
            Field::Ipv4Destination,
            Field::Ipv6Source,
            Field::Ipv6Destination,
            Field::SourcePort,
            Field::DestinationPort,
            Field::IcmpType,
            Field::IcmpCode,
        ])
    }

    fn keeps_part(&self) -> bool {
        true
    }

    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<Staged>) {
        if is_icmp_error(walk.headers) {
            return Self::admit_error(walk);
        }
        let known = walk.session.map(|session| (session.id, session.reply));
        match (known, walk.part().and_then(Word::unpack)) {
            (Some((id, reply)), Some(word)) => self.admit_known(walk, id, reply, word),
            _ => self.admit_new(walk),
        }
    }

    fn explain(&self, walk: &Walk<'_>, staged: Option<&Staged>, notes: &mut Notes) {
        say_rule(&self.policy, walk, staged, notes);
    }

    fn commit(&mut self, staged: Staged, commit: &mut Commit<'_>) {
        let Self { policy, counters, log, .. } = self;
        if let Some(flow) = staged.flow {
            log.note(policy, staged.rule, LoggedFlow { to: commit.output, ..flow });
        }
        let counters = counters.of(policy, staged.rule);
        let this = Traffic { packets: 1, bytes: staged.bytes };
        match staged.outcome {
            Outcome::Admitted(word) => {
                let before = if commit.is_new { None } else { Word::rule_of(commit.part()) };
                counters.hits += u64::from(before != Some(staged.rule));
                if commit.session.is_some() {
                    commit.set_part(word.pack());
                } else {
                    // Nothing will tell of it: no session carries it.
                    counters.carry(this);
                }
            }
            Outcome::TurnAdmitted => {
                if let Some(word) = Word::unpack(commit.part()) {
                    counters.hits += u64::from(commit.is_new && word.rule != staged.rule);
                    commit.set_part(Word { turns: true, ..word }.pack());
                }
            }
            Outcome::Refused { cut, answered } => {
                counters.hits += 1;
                counters.carry(this);
                if let Some(source) = answered {
                    self.answers.take(source, commit.now);
                }
                if let Some(id) = cut {
                    commit.end_session(id);
                }
            }
        }
    }

    fn consumed(&mut self, staged: Staged) {
        if let Some(flow) = staged.flow {
            self.log.note(&self.policy, staged.rule, flow);
        }
        if staged.outcome == Outcome::TurnAdmitted {
            return;
        }
        let counters = self.counters.of(&self.policy, staged.rule);
        counters.hits += 1;
        counters.carry(Traffic { packets: 1, bytes: staged.bytes });
    }

    fn tick(&mut self, tick: &mut Tick<'_>) {
        self.log.tick(&self.policy, tick.now);
    }

    /// A session that was admitted needs nobody to go on.
    fn outlived(_part: u64) -> bool {
        true
    }

    fn account(&mut self, part: u64, _reply: bool, traffic: Traffic) {
        if let Some(rule) = Word::rule_of(part) {
            self.counters.of(&self.policy, rule).carry(traffic);
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// The decision depends on the rules for this.
#[inline(always)]
fn depend(walk: &mut Walk<'_>, query: &Query) {
    let (source, destination): (IpAddr, IpAddr) = match query.addresses {
        Addresses::V4 { source, destination } => (source.into(), destination.into()),
        Addresses::V6 { source, destination } => (source.into(), destination.into()),
    };
    let service = match query.transport {
        Transport::Ports { destination, .. } => Some((query.protocol, destination)),
        _ => None,
    };
    depend_on_rules(walk, source, destination, service);
}

/// What to ask the rules about the packet's connection, as its first packet named its ends at this place of the chain: from the
/// headers as they are now; of a reply, the other way round. The zones are still to be told. None if it is not IP.
#[inline(always)]
fn query_of(walk: &mut Walk<'_>, reply: bool) -> Option<Query> {
    let in_session = walk.session.is_some();
    let (from_zone, to_zone) = (NOWHERE, NOWHERE);
    let headers = &mut *walk.headers;
    let protocol = headers.protocol()?;
    let addresses = match headers.addresses()? {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 { source, destination },
        (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 { source, destination },
        _ => return None,
    };
    let transport = transport_of(headers, protocol, in_session);
    let query = Query { from_zone, to_zone, addresses, protocol, transport };
    Some(if reply { query.turned() } else { query })
}

/// Ports, or ICMP type and code: of an echo in a session, those of the request that opened it.
#[inline(always)]
fn transport_of(headers: &mut Headers, protocol: u8, in_session: bool) -> Transport {
    match protocol {
        protocol::TCP | protocol::UDP => headers
            .ports()
            .map_or(Transport::Other, |(source, destination)| Transport::Ports { source, destination }),
        PROTOCOL_ICMP => match headers.icmpv4() {
            Some(icmp) if in_session && icmp.is_echo() => {
                Transport::Icmp { icmp_type: icmpv4::ECHO_REQUEST, code: 0 }
            }
            Some(icmp) => Transport::Icmp { icmp_type: icmp.icmp_type, code: icmp.code },
            None => Transport::Other,
        },
        PROTOCOL_ICMPV6 => match headers.icmpv6() {
            Some(icmp) if in_session && icmp.is_echo() => {
                Transport::Icmp { icmp_type: icmpv6::ECHO_REQUEST, code: 0 }
            }
            Some(icmp) => Transport::Icmp { icmp_type: icmp.icmp_type, code: icmp.code },
            None => Transport::Other,
        },
        _ => Transport::Other,
    }
}

#[inline]
fn is_icmp_error(headers: &mut Headers) -> bool {
    match headers.protocol() {
        Some(PROTOCOL_ICMP) => headers.icmpv4().is_some_and(|icmp| icmp.is_error()),
        Some(PROTOCOL_ICMPV6) => headers.icmpv6().is_some_and(|icmp| icmp.is_error()),
        _ => false,
    }
}

#[inline]
fn is_echo(headers: &mut Headers) -> bool {
    match headers.protocol() {
        Some(PROTOCOL_ICMP) => headers.icmpv4().is_some_and(|icmp| icmp.is_echo()),
        Some(PROTOCOL_ICMPV6) => headers.icmpv6().is_some_and(|icmp| icmp.is_echo()),
        _ => false,
    }
}

#[inline]
fn is_echo_reply(headers: &mut Headers) -> bool {
    match headers.protocol() {
        Some(PROTOCOL_ICMP) => headers.icmpv4().is_some_and(|icmp| icmp.icmp_type == icmpv4::ECHO_REPLY),
        Some(PROTOCOL_ICMPV6) => headers.icmpv6().is_some_and(|icmp| icmp.icmp_type == icmpv6::ECHO_REPLY),
        _ => false,
    }
}
