//! Two things measured in turns, for whole paths that criterion cannot repeat often enough.

use std::time::Duration;

use hrl::{Clock, SystemClock};

/// Two things measured in turns.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Shortest run of the reference.
    pub bare: Duration,
    /// Shortest run of ours.
    pub ours: Duration,
    /// Median over the rounds of the reference's time divided by ours: above 1 if ours is faster.
    pub median: f64,
    /// The same ratio at the worst and best tenth of the rounds.
    pub spread: (f64, f64),
}

/// Runs `bare` and `ours` in turns, so that other load on the machine affects both.
pub fn compare(rounds: usize, mut bare: impl FnMut(), mut ours: impl FnMut()) -> Ratio {
    let clock = SystemClock::default();
    let time = |work: &mut dyn FnMut()| {
        let start = clock.elapsed();
        work();
        clock.elapsed().saturating_sub(start)
    };
    time(&mut bare);
    time(&mut ours);
    let mut pairs: Vec<_> = (0..rounds).map(|_| (time(&mut bare), time(&mut ours))).collect();
    let ratio = |pair: &(Duration, Duration)| pair.0.as_secs_f64() / pair.1.as_secs_f64();
    pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let at = |tenth: usize| ratio(&pairs[(pairs.len() - 1) * tenth / 10]);
    Ratio {
        bare: pairs.iter().map(|pair| pair.0).min().unwrap_or_default(),
        ours: pairs.iter().map(|pair| pair.1).min().unwrap_or_default(),
        median: at(5),
        spread: (at(1), at(9)),
    }
}
