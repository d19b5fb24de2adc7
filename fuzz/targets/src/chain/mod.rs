//! A chain with random rules and state, and what happens to it: packets from both sides, answers, errors, fragments, time, and
//! changes of everything that can be changed. Nothing panics, every packet and every frame is accounted for, and what leaves is right
//! if what came was. In half of the runs a second site without a flow cache does the same, and the same leaves.

mod frames;
mod setup;

use crate::check::fault;
use crate::site::{ALL_TIMERS, INSIDE, Inspections, OUTSIDE, Plan, Sent, Site, prefix, route, router};
use arbitrary::{Result, Unstructured};
use millrace_nf::firewall::Firewall;
use millrace_nf::firewall::rules::{Rule, RuleId};
use millrace_nf::inspect::{Change, Inspect, Pattern, Patterns};
use millrace_nf::nat::{Nat, NatConfig, NatPlan, NatSettings};
use millrace_nf::router::lpm::RouteKind;
use millrace_nf::router::{Router, RouterConfig};
use std::sync::Arc;

/// Most steps of a run.
const STEPS_MAX: usize = 48;
/// Most frames of a burst.
const FRAMES_MAX: usize = 24;
/// Frames that left and may be answered.
const RECENT_MAX: usize = 16;

/// Runs the script that the bytes describe.
///
/// # Panics
/// A promise of the engine or of a function does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((plan, compared)) = setup::plan(&mut input) else { return };
    let Some(mut script) = Script::new(&plan, compared) else { return };
    for _ in 0..STEPS_MAX {
        if input.is_empty() || script.step(&mut input).is_err() {
            break;
        }
    }
    script.finish();
}

struct Script {
    site: Site,
    /// The same without a cache.
    plain: Option<Site>,
    recent: Sent,
    rules: Vec<RuleId>,
    next_rule: u32,
    patterns: Vec<Pattern>,
    /// Something that was not right came in and may still be here.
    tainted: bool,
}

impl Script {
    fn new(plan: &Plan, compared: bool) -> Option<Self> {
        let site = Site::new(plan)?;
        let plain =
            if compared { Some(Site::new(&Plan { cache_entries: 0, ..plan.clone() })?) } else { None };
        let rules: Vec<RuleId> =
            plan.firewall.iter().flat_map(|(rules, _)| rules.iter().map(|rule| rule.id)).collect();
        let (recent, patterns) = (Sent::new(), plan.inspections.patterns.clone());
        Some(Self { site, plain, recent, rules, next_rule: 1000, patterns, tainted: false })
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=32)? {
            0..=11 => {
                let (port, count) = (port(input)?, input.int_in_range(1..=FRAMES_MAX)?);
                let mut burst: Vec<Vec<u8>> = Vec::new();
                for _ in 0..count {
                    // Packets of a flow come together.
                    let again = !burst.is_empty() && input.arbitrary()?;
                    burst.push(if again {
                        burst[burst.len() - 1].clone()
                    } else {
                        frames::frame(input, port)?
                    });
                }
                self.send(port, &burst);
            }
            12..=17 => self.answer(input, false)?,
            18 | 19 => self.answer(input, true)?,
            20..=22 => {
                let milliseconds = *input.choose(&[0, 1, 200, 3_000, 40_000, 400_000])?;
                let timers = *input.choose(&[ALL_TIMERS, 1, 0, 64])?;
                // How far a slice of housekeeping comes may differ between the two.
                let timers = if self.plain.is_some() { ALL_TIMERS } else { timers };
                self.both(|site| site.pass(milliseconds, timers), true);
            }
            23 | 24 => self.change_rule(input)?,
            25 | 26 => self.change_routes(input)?,
            27 => {
                let settings = setup::translation(input)?;
                self.both(
                    |site| {
                        change_nat(site, &settings);
                        Sent::new()
                    },
                    true,
                );
            }
            28 => self.change_router(input)?,
            29 => self.site.engine.state.flush(),
            30 => {
                let number = input.int_in_range(0..=7)?;
                self.both(
                    |site| {
                        end_session(site, number);
                        site.collect()
                    },
                    true,
                );
            }
            31 => {
                let patterns = setup::patterns(input)?;
                if let Ok(built) = Patterns::new(patterns.clone()) {
                    let (before, built) = (std::mem::replace(&mut self.patterns, patterns), Arc::new(built));
                    self.both(
                        |site| {
                            change_patterns(site, &before, &built);
                            Sent::new()
                        },
                        true,
                    );
                }
            }
            _ => {
                let (port, frame) = (port(input)?, input.arbitrary::<Vec<u8>>()?);
                self.send(port, &[frame]);
            }
        }
        Ok(())
    }

    fn send(&mut self, port: u16, burst: &[Vec<u8>]) {
        let right = burst.iter().all(|frame| fault(frame).is_none());
        self.both(|site| site.send(port, burst), right);
    }

    /// Both sites do the same, and the same leaves; it is right if all was that could have made it.
    fn both(&mut self, action: impl Fn(&mut Site) -> Sent, right: bool) {
        let waited = self.site.engine.buffered() > 0;
        self.tainted = !right || (self.tainted && waited);
        let sent = action(&mut self.site);
        if let Some(plain) = &mut self.plain {
            let without = action(plain);
            let drops = [&self.site, plain].map(|it| it.engine.outputs.sums.drops.iter().collect::<Vec<_>>());
            assert_eq!(sent, without, "with and without a cache; drops {drops:?}");
            assert_eq!(self.site.engine.outputs.sums, plain.engine.outputs.sums);
            let counts = [&self.site, plain].map(|it| it.engine.state.sessions.count());
            assert_eq!(counts[0], counts[1], "sessions");
        }
        for (port, frame) in sent {
            if !self.tainted {
                assert_eq!(fault(&frame), None, "out of port {port}: {frame:02x?}");
            }
            if self.recent.len() == RECENT_MAX {
                self.recent.remove(0);
            }
            self.recent.push((port, frame));
        }
    }

    /// Somebody answers a frame that left, or tells of an error about it.
    fn answer(&mut self, input: &mut Unstructured<'_>, error: bool) -> Result<()> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let (port, frame) = input.choose(&self.recent)?.clone();
        let answer = if error {
            Some(frames::error_about(input, port, &frame)?)
        } else {
            frames::reply_to(input, port, &frame)?
        };
        if let Some(mut answer) = answer {
            frames::damage(input, &mut answer)?;
            self.send(port, &[answer.clone(), answer]);
        }
        Ok(())
    }

    fn change_rule(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let gone = if !self.rules.is_empty() && input.arbitrary()? {
            let at = input.choose_index(self.rules.len())?;
            Some(self.rules.swap_remove(at))
        } else {
            None
        };
        let come = if input.arbitrary()? { Some(setup::rule(input, self.next_rule)?) } else { None };
        self.next_rule += 1;
        self.rules.extend(come.as_ref().map(|rule| rule.id));
        self.both(
            |site| {
                exchange_rule(site, gone, come.as_ref());
                Sent::new()
            },
            true,
        );
        Ok(())
    }

    fn change_routes(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let at = prefix(input.choose(&[
            "198.18.0.0/24",
            "198.18.0.7/32",
            "0.0.0.0/0",
            "2001:db8:2::/64",
            "::/0",
        ])?);
        let kinds = [RouteKind::Unicast, RouteKind::Blackhole, RouteKind::Prohibit, RouteKind::Unreachable];
        let kind = *input.choose(&kinds)?;
        let gateway = if at.addr().is_ipv4() { "192.0.2.9" } else { "2001:db8:2::9" };
        let new = if input.arbitrary()? { Some(route(at, kind, gateway)) } else { None };
        self.both(
            |site| {
                let Some(router) = site.function::<Router>("router") else { return Sent::new() };
                let changed = match new.clone() {
                    // Refused if its gateway is no neighbour any more.
                    Some(route) => router.insert_route(route).unwrap_or_default(),
                    None => router.remove_route(at, 5).unwrap_or_default(),
                };
                site.engine.state.validity.change_all(&changed);
                Sent::new()
            },
            true,
        );
        Ok(())
    }

    fn change_router(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut config = router(input.arbitrary()?);
        let mtus = [*input.choose(&[1500, 1280])?, *input.choose(&[1400, 1280])?];
        for (interface, mtu) in config.interfaces.iter_mut().flatten().zip(mtus) {
            interface.mtu = mtu;
        }
        match input.int_in_range(0..=3)? {
            // The outside has no IPv6 any more.
            0 => {
                config.interfaces[1].iter_mut().for_each(|outside| outside.addresses.truncate(1));
                config.routes.pop();
                config.neighbours.retain(|it| it.address.is_ipv4() || it.interface.0 == INSIDE);
            }
            // The router has no inside any more.
            1 => {
                config.interfaces[0] = None;
                config.neighbours.retain(|it| it.interface.0 != INSIDE);
            }
            _ => {}
        }
        self.both(
            |site| {
                apply_router(site, &config);
                site.pass(0, ALL_TIMERS)
            },
            true,
        );
        Ok(())
    }

    fn finish(self) {
        for mut site in [Some(self.site), self.plain].into_iter().flatten() {
            site.engine.state.fold_all();
            site.engine.settle();
            site.finish();
        }
    }
}

fn port(input: &mut Unstructured<'_>) -> Result<u16> {
    Ok(if input.ratio(2, 3)? { INSIDE } else { OUTSIDE })
}

fn change_nat(site: &mut Site, settings: &NatSettings) {
    let Ok(plan) = NatPlan::new(settings.clone()) else { return };
    if let Some(nat) = site.function::<Nat>("nat") {
        // Refused while an earlier change is under way: both sites are at the same point.
        _ = nat.reconfigure(NatConfig::new(Arc::new(plan)));
    }
}

fn change_patterns(site: &mut Site, before: &[Pattern], patterns: &Arc<Patterns>) {
    for name in Inspections::NAMES {
        if let Some(inspect) = site.packet_function::<Inspect>(name) {
            inspect.apply(Change::between(before, Arc::clone(patterns)));
        }
    }
}

fn exchange_rule(site: &mut Site, gone: Option<RuleId>, come: Option<&Rule>) {
    let engine = &mut site.engine;
    let firewall = engine.slow.chain(0).and_then(|chain| chain.function::<Firewall>("firewall"));
    let Some(firewall) = firewall else { return };
    if let Some(gone) = gone {
        firewall.remove(gone, &mut engine.state.validity.within(0));
    }
    if let Some(come) = come {
        // Refused if it would cost too much to look up.
        _ = firewall.insert(come.clone(), &mut engine.state.validity.within(0));
    }
}

fn apply_router(site: &mut Site, config: &RouterConfig) {
    let now = site.now;
    let Some(router) = site.function::<Router>("router") else { return };
    if let Ok(changed) = router.apply(config.clone(), now) {
        site.engine.state.validity.change_all(&changed);
    }
}

/// As `clear sessions` does.
fn end_session(site: &mut Site, number: u32) {
    if let Some(id) = site.engine.state.sessions.get(number) {
        site.engine.state.end_session(id);
        site.engine.settle();
    }
}

/// Seeds: pseudo-random scripts of several lengths. What they mean follows from the order in which this target reads its input.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let script = |seed: u64| {
        let mut random = crate::random::Random::new(seed);
        random.bytes(256 << (seed % 4))
    };
    (0..12).map(|seed| (format!("script-{seed}"), script(seed))).collect()
}
