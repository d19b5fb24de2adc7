//! Which worker has which shares: as evenly as can be, with as few moves as can be.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::settings::Workers;

/// Deals the parts of `workers` to its threads. `held` are the parts that each thread has, in the order of the threads; parts that
/// none of them has are new, or were with others. The answer is in the same order, each thread's parts in theirs.
///
/// Where one part only has the ports, it is alone with the first thread. Threads differ by one share at most: those have one more
/// that have more already, so that fewest move; where nothing decides, not the one with the first share, which polls most. The
/// first shares, which have the queues of ports, are spread over the threads.
pub(crate) fn deal(workers: &Workers, held: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let (first, all) = (workers.first_owner(), workers.count());
    let mut dealt: Vec<Vec<usize>> = vec![Vec::new(); held.len()];
    let alone = first.min(held.len());
    dealt[..alone].fill(vec![0]);
    let owning = held.len() - alone;
    if owning == 0 {
        return dealt;
    }
    let owned = |thread: usize| held[thread].iter().filter(|part| **part >= first);
    let mut by_need: Vec<usize> = (alone..held.len()).collect();
    by_need
        .sort_by_key(|&thread| (Reverse(owned(thread).count()), held[thread].contains(&0), Reverse(thread)));
    let (each, more) = (workers.owners() / owning, workers.owners() % owning);
    let mut room = vec![0; held.len()];
    for (place, &thread) in by_need.iter().enumerate() {
        room[thread] = each + usize::from(place < more);
        let (own, stay) =
            (owned(thread).copied().collect::<Vec<_>>(), room[thread].min(owned(thread).count()));
        dealt[thread] = (0..stay).map(|at| own[at * own.len() / stay]).collect();
    }
    let placed: BTreeSet<usize> = dealt.iter().flatten().copied().collect();
    let mut rest = (first..all).filter(|part| !placed.contains(part)).peekable();
    while rest.peek().is_some() {
        for thread in alone..held.len() {
            if dealt[thread].len() < room[thread] {
                dealt[thread].extend(rest.next());
            }
        }
    }
    dealt.iter_mut().for_each(|parts| parts.sort_unstable());
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::Io;

    fn workers(shares: usize, io: Io) -> Workers {
        Workers { shares, io, ..Workers::default() }
    }

    #[test]
    fn cores_come_and_go_with_few_moves() {
        let four = workers(4, Io::Shared);
        assert_eq!(deal(&four, &[vec![]]), [vec![0, 1, 2, 3]]);
        assert_eq!(deal(&four, &[vec![], vec![]]), [vec![0, 2], vec![1, 3]]);
        assert_eq!(deal(&four, &[vec![0, 1, 2, 3], vec![]]), [vec![0, 2], vec![1, 3]]);
        assert_eq!(deal(&four, &[vec![2, 3]]), [vec![0, 1, 2, 3]]);
        assert_eq!(deal(&four, &[vec![], vec![2, 3]]), [vec![0, 1], vec![2, 3]]);
        assert_eq!(deal(&four, &[vec![0, 1], vec![2, 3], vec![]]), [vec![0], vec![2, 3], vec![1]]);
    }

    #[test]
    fn who_has_the_ports_has_no_more_than_others() {
        assert_eq!(deal(&workers(3, Io::Shared), &[vec![], vec![]]), [vec![0], vec![1, 2]]);
        // But nothing moves for that alone.
        assert_eq!(deal(&workers(3, Io::Shared), &[vec![0, 1], vec![2]]), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn ports_alone_are_with_the_first() {
        let two = workers(2, Io::Dedicated);
        assert_eq!(deal(&two, &[vec![], vec![]]), [vec![0], vec![1, 2]]);
        assert_eq!(deal(&two, &[vec![0], vec![1, 2], vec![]]), [vec![0], vec![1], vec![2]]);
        // Another core is the first.
        assert_eq!(deal(&two, &[vec![1], vec![0], vec![2]]), [vec![0], vec![1], vec![2]]);
    }

    proptest! {
        /// Whatever was before: each part is somewhere, all is even, and no other even deal moves fewer.
        #[test]
        fn deals_are_whole_even_and_cheap(
            shares in 1usize..20, threads in 1usize..8, gone in 0usize..4, is_dedicated: bool,
            before in prop::collection::vec(0usize..12, 21),
        ) {
            let io = if is_dedicated { Io::Dedicated } else { Io::Shared };
            let (workers, alone) = (workers(shares, io), usize::from(is_dedicated));
            let threads = threads + alone;
            let mut held = vec![Vec::new(); threads];
            for (part, place) in before.iter().enumerate().take(workers.count()) {
                if let Some(of_thread) = held.get_mut(place % (threads + gone)) {
                    of_thread.push(part);
                }
            }
            let dealt = deal(&workers, &held);
            let mut all: Vec<usize> = dealt.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..workers.count()).collect::<Vec<_>>());
            let owning = &dealt[alone..];
            let most = owning.iter().map(Vec::len).max().unwrap();
            prop_assert!(owning.iter().all(|parts| parts.len() + 1 >= most));
            if is_dedicated {
                prop_assert_eq!(&dealt[0], &vec![0]);
            }
            // At best each thread keeps what it has, up to its part, and the greedy ones get the odd shares.
            let stay = dealt.iter().zip(&held).skip(alone)
                .flat_map(|(now, old)| now.iter().filter(|part| old.contains(part))).count();
            let (each, more) = (shares / owning.len(), shares % owning.len());
            let counts = held[alone..].iter().map(|parts| parts.iter().filter(|part| **part >= alone).count());
            let counts: Vec<_> = counts.collect();
            let best = counts.iter().map(|count| (*count).min(each)).sum::<usize>()
                + counts.iter().filter(|count| **count > each).count().min(more);
            prop_assert_eq!(stay, best);
        }
    }
}
