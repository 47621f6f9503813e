//! The capacity plan: options in, predictions out.

use std::time::Duration;

use super::curve::{RpoCurve, SpoolCurve, spread};
use super::growth;
use super::prediction::{DayPlan, Plan, PlanOptions, PlanSample, VolumePlan};
use super::shipping::{Planned, Shipped, nanos, rotate, ship};
use super::trace::Trace;
use hrl::replica::{Progress, Replica};
use hrl::{Error, ErrorKind, Result, Timestamp};

/// Samples of the curves.
const SAMPLES: usize = 600;
/// Most days that are simulated.
const DAYS_MAX: u32 = 3660;
/// Slowest and fastest link that the search for the least bandwidth tries, in bytes per second.
const RATE_MIN: u64 = 64;
const RATE_MAX: u64 = 1 << 40;
/// The search ends within one part in this many.
const RATE_PRECISION: u64 = 100;

/// Plays the journals of volumes that share a link, and predicts their needs. `progress` receives
/// the segments read, volume by volume; returning false ends the work with `Unavailable`.
///
/// `InvalidInput` for a bad policy, link or number of days, or without volumes. `NotFound` if a
/// volume has no journals of ordered writes in this time, `Full` if they have too many segments.
/// Also fails if a segment cannot be read.
pub fn plan_capacity(
    replicas: &[Replica],
    options: &PlanOptions,
    progress: Progress<'_>,
) -> Result<Plan> {
    check(replicas, options)?;
    let mut traces = Vec::with_capacity(replicas.len());
    for replica in replicas {
        traces.push(Trace::read(replica, options.from, options.to, progress)?);
    }
    align(&mut traces, options);
    let rotated: Vec<_> =
        traces.iter().map(|trace| rotate(&trace.atoms, &options.policy)).collect();
    let (begin, period) = (traces[0].begin, traces[0].period);
    let shipped = ship(rotated.clone(), options, options.link_bytes_per_second);
    let end = begin.saturating_add(period);
    let volumes =
        traces.iter().zip(&shipped).map(|(trace, shipped)| volume(trace, shipped, options));
    let volumes = volumes.collect::<Result<Vec<_>>>()?;
    let days = sum_days(&volumes);
    let steady = growth::steady_days(options)
        .filter(|steady| u32::try_from(days.len()).is_ok_and(|days| days >= *steady));
    Ok(Plan {
        from: Timestamp(begin),
        to: Timestamp(end),
        link_use: options.link_bytes_per_second.map(|rate| link_use(&shipped, begin, end, rate)),
        is_sustainable: is_sustainable(&rotated, options, begin, period),
        least_bytes_per_second: least_rate(&rotated, options, begin, end),
        steady_bytes: steady.and_then(|_| days.last().map(|day| day.vault_bytes)),
        samples: samples(&shipped, begin, end),
        volumes,
        days,
    })
}

fn check(replicas: &[Replica], options: &PlanOptions) -> Result<()> {
    options.policy.validate()?;
    let bad = |what: &'static str| Error::new(ErrorKind::InvalidInput, "plan capacity", what);
    if replicas.is_empty() {
        return Err(bad("volumes").expected("at least one volume").found("none"));
    }
    if let Some(rate) = options.link_bytes_per_second
        && !(RATE_MIN..=RATE_MAX).contains(&rate)
    {
        return Err(bad("link")
            .expected(format_args!("{RATE_MIN} to {RATE_MAX} bytes a second"))
            .found(rate));
    }
    if let Some(days) = options.days
        && !(1..=DAYS_MAX).contains(&days)
    {
        return Err(bad("days").expected(format_args!("1 to {DAYS_MAX}")).found(days));
    }
    if options.request_latency > Duration::from_secs(60) {
        let latency = format!("{:?}", options.request_latency);
        return Err(bad("request latency").expected("at most 60 s").found(latency));
    }
    Ok(())
}

/// Extends all traces to the time from the earliest begin to the latest end.
fn align(traces: &mut [Trace], options: &PlanOptions) {
    let begin = traces.iter().map(|trace| trace.begin).min().unwrap_or(0);
    let end = traces.iter().map(|trace| trace.begin.saturating_add(trace.period)).max();
    // A segment stays open for its interval after the last write.
    let interval = nanos(options.policy.segment_interval);
    let period = end.unwrap_or(begin).saturating_sub(begin).max(interval);
    for trace in traces {
        trace.reuse.stretch(begin, period);
        (trace.begin, trace.period) = (begin, period);
    }
}

fn volume(trace: &Trace, shipped: &Shipped, options: &PlanOptions) -> Result<VolumePlan> {
    let segments = &shipped.segments;
    let rpo = RpoCurve::new(segments, trace.begin, trace.begin.saturating_add(trace.period));
    let spool = SpoolCurve::new(segments);
    let sum = |of: fn(&Planned) -> u64| segments.iter().fold(0_u64, |s, x| s.saturating_add(of(x)));
    let days = options.days.or(growth::steady_days(options)).unwrap_or(30).min(DAYS_MAX);
    let days_max = growth::days_max(trace, segments);
    if u64::from(days) > days_max {
        return Err(Error::new(ErrorKind::Full, "plan capacity of", &trace.name)
            .expected(format_args!("at most {days_max} days with so many segments"))
            .found(days));
    }
    let growth = growth::play(trace, segments, shipped.appends, options, days);
    let day = |(vault_bytes, requests)| DayPlan { vault_bytes, requests };
    Ok(VolumePlan {
        name: trace.name.clone(),
        rpo_max: duration(rpo.max()),
        rpo_p99: duration(rpo.quantile(99.0)),
        rpo_median: duration(rpo.quantile(50.0)),
        spool_bytes_max: spool.max(),
        spool_full_at: spool.reaches(options.policy.spool_bytes_max).map(Timestamp),
        segments: segments.len() as u64,
        written_bytes: sum(|segment| segment.data_bytes),
        unique_bytes: trace.reuse.footprint_bytes(),
        shipped_bytes: sum(|segment| segment.stored_bytes),
        shipped_at: Timestamp(segments.last().map_or(trace.begin, |segment| segment.shipped)),
        is_sampled: trace.reuse.is_sampled,
        days: growth.days.into_iter().map(day).collect(),
    })
}

fn sum_days(volumes: &[VolumePlan]) -> Vec<DayPlan> {
    let count = volumes.iter().map(|volume| volume.days.len()).max().unwrap_or(0);
    let mut days = vec![DayPlan::default(); count];
    for volume in volumes {
        for (sum, day) in days.iter_mut().zip(&volume.days) {
            sum.vault_bytes = sum.vault_bytes.saturating_add(day.vault_bytes);
            sum.requests.add(&day.requests);
        }
    }
    days
}

fn shipped_bytes(shipped: &[Shipped]) -> u64 {
    let segments = shipped.iter().flat_map(|shipped| &shipped.segments);
    segments.fold(0, |sum, segment| segment.stored_bytes.saturating_add(sum))
}

fn link_use(shipped: &[Shipped], begin: i64, end: i64, rate: u64) -> f64 {
    let last =
        shipped.iter().filter_map(|s| s.segments.last()).map(|segment| segment.shipped).max();
    let seconds = (last.unwrap_or(end).max(end) - begin) as f64 / 1e9;
    shipped_bytes(shipped) as f64 / (rate as f64 * seconds)
}

/// Plays the trace twice: if the backlog does not grow, the second pass ends as late after its
/// begin as the first.
fn is_sustainable(
    rotated: &[Vec<Planned>],
    options: &PlanOptions,
    begin: i64,
    period: i64,
) -> bool {
    let twice = rotated.iter().map(|segments| {
        let again = segments.iter().map(|segment| Planned {
            first: segment.first.saturating_add(period),
            last: segment.last.saturating_add(period),
            closed: segment.closed.saturating_add(period),
            ..*segment
        });
        segments.iter().copied().chain(again).collect()
    });
    let shipped = ship(twice.collect(), options, options.link_bytes_per_second);
    shipped.iter().all(|shipped| {
        let half = shipped.segments.len() / 2;
        let late = |at: usize, shift: i64| {
            shipped.segments.get(at).map_or(0, |segment| segment.shipped - begin - shift)
        };
        // A tenth of a second is no trend.
        late(2 * half - 1, period) <= late(half - 1, 0) + 100_000_000
    })
}

fn least_rate(
    rotated: &[Vec<Planned>],
    options: &PlanOptions,
    begin: i64,
    end: i64,
) -> Option<u64> {
    let target = nanos(options.rpo_target?);
    let keeps = |rate: u64| {
        let shipped = ship(rotated.to_vec(), options, Some(rate));
        shipped.iter().all(|s| RpoCurve::new(&s.segments, begin, end).quantile(99.0) <= target)
    };
    let (mut low, mut high) = (RATE_MIN, RATE_MAX);
    if !keeps(high) {
        return None;
    }
    while high - low > (high / RATE_PRECISION).max(1) {
        // The range is wide, so it is halved at the geometric mean.
        let middle = (low.isqrt() * high.isqrt()).clamp(low + 1, high - 1);
        if keeps(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

fn samples(shipped: &[Shipped], begin: i64, end: i64) -> Vec<PlanSample> {
    let last =
        shipped.iter().filter_map(|s| s.segments.last()).map(|segment| segment.shipped).max();
    let end = last.unwrap_or(end).max(end);
    let width = ((end - begin) / SAMPLES as i64).max(1);
    let mut samples: Vec<_> = (0..SAMPLES as i64)
        .map(|at| PlanSample {
            start: Timestamp(begin + at * width),
            rpo_max: Duration::ZERO,
            spool_bytes_max: 0,
            sealed_bytes: 0,
            sent_bytes: 0,
        })
        .collect();
    let (mut closed, mut sent) = (vec![0; SAMPLES], vec![0; SAMPLES]);
    for one in shipped {
        let rpo = RpoCurve::new(&one.segments, begin, end).samples(begin, end, SAMPLES);
        let spool = SpoolCurve::new(&one.segments).samples(begin, end, SAMPLES);
        for ((sample, rpo), spool) in samples.iter_mut().zip(rpo).zip(spool) {
            sample.rpo_max = sample.rpo_max.max(duration(rpo));
            sample.spool_bytes_max = sample.spool_bytes_max.saturating_add(spool);
        }
        for segment in &one.segments {
            let bytes = segment.stored_bytes;
            spread(&mut closed, (begin, width), (segment.first, segment.closed), bytes);
            spread(&mut sent, (begin, width), segment.sent, bytes);
        }
    }
    for ((sample, closed), sent) in samples.iter_mut().zip(closed).zip(sent) {
        (sample.sealed_bytes, sample.sent_bytes) = (closed, sent);
    }
    samples
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.max(0).cast_unsigned())
}
