//! Every limit and choice of a protected volume, named, with unit and default.
//!
//! A policy is checked once, when a volume is opened with it. Each field documents its limit.

mod bandwidth;
mod retention;
mod throttle;

use std::time::Duration;

pub use bandwidth::Bandwidth;
pub use retention::{RetentionPolicy, Thinning};
pub use throttle::Throttle;

use crate::duration::{TimeUnit, duration_text, parse_duration};
use crate::error::{Error, ErrorKind, Result};

/// What happens when capture cannot keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Fall back to the dirty map; writers go on.
    #[default]
    Degrade,
    /// Block the writer until there is room (strict mode).
    Block,
}

/// What is captured of each write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureContent {
    /// Extent and data, for replication.
    #[default]
    Data,
    /// Extent only: change tracking for incremental backup. There are no views.
    ExtentsOnly,
}

/// How frames are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By zstd at this level, 1 to 19. A frame that does not shrink by it is stored as it is.
    Zstd(i32),
}

/// Defines the policy: each field with its default, and the names of all.
macro_rules! policy {
    (
        $(#[$of_struct:meta])*
        pub struct $type:ident {
            $($(#[$of_field:meta])* pub $field:ident: $kind:ty = $default:expr;)*
        }
    ) => {
        $(#[$of_struct])*
        pub struct $type {
            $($(#[$of_field])* pub $field: $kind,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $type {
            /// Names that [`Policy::set`] accepts, in the order of the fields.
            pub const NAMES: [&'static str; [$(stringify!($field)),*].len()] =
                [$(stringify!($field)),*];
        }
    };
}

policy! {
    /// Limits and choices of one protected volume. Start from [`Policy::default`] and change fields.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Policy {
        /// Limits the captured data that waits in memory, in bytes. At the limit:
        /// [`Policy::when_full`]. Default 64 MiB.
        pub memory_budget_bytes: u64 = 64 << 20;
        /// Decides what happens at the memory budget. Default: degrade to the dirty map.
        pub when_full: WhenFull = WhenFull::Degrade;
        /// Decides what is captured of each write. Default: data.
        pub content: CaptureContent = CaptureContent::Data;
        /// Sets the size of a region of the dirty map, a power of two. Default 1 MiB.
        pub region_bytes: u64 = 1 << 20;
        /// Limits the dirty regions while `Ordered`. Beyond it the cleaner runs at once. Default 1,024.
        pub marked_regions_max: u64 = 1_024;
        /// Closes a segment that contains this many bytes. Default 64 MiB.
        pub segment_bytes_max: u64 = 64 << 20;
        /// Closes a segment with records after this time. Default 1 s.
        pub segment_interval: Duration = Duration::from_secs(1);
        /// Limits the records of a frame before compression, in bytes. Default 512 KiB.
        pub frame_bytes: u64 = 512 << 10;
        /// Sets the compression of frames. Default zstd level 1.
        pub compression: Compression = Compression::Zstd(1);
        /// Limits the share of one processor that compression may take, so that a burst of writes is
        /// not slowed down; 100 is no limit. Beyond it frames are stored uncompressed. Below 100 they
        /// are also stored uncompressed while the journal waits for a processor that others use, unless
        /// an eighth of the spool is full. Default 25.
        pub compression_cpu_percent_max: u32 = 25;
        /// Limits the closed segments that wait on the local disk, in bytes. At the limit: `Dirty`
        /// mode. Default 4 GiB.
        pub spool_bytes_max: u64 = 4 << 30;
        /// Takes a crash-consistent point this often; zero switches it off. Default 60 s.
        pub crash_point_interval: Duration = Duration::from_secs(60);
        /// Takes an application-consistent point this often, first when the volume is ordered; zero
        /// switches it off. A failed one is tried again when the next is due. Default zero.
        pub app_point_interval: Duration = Duration::ZERO;
        /// Lists the applications to quiesce for those points, as specifications
        /// (`core/docs/quiesce.md`). The crate `hrl-quiesce` makes a provider of them
        /// (`Applications::of_policy`). Default: none.
        pub quiesce: Vec<String> = Vec::new();
        /// Limits the time from the beginning of quiescing to the mark. Everything is released then.
        /// Default 10 s.
        pub quiesce_limit: Duration = Duration::from_secs(10);
        /// Tries cuts of an attached disk for this long without a freeze. Default 10 s.
        pub cut_limit: Duration = Duration::from_secs(10);
        /// Freezes the file systems of an attached disk after that, for at most this long; zero freezes
        /// none. Default 500 ms.
        pub freeze_limit: Duration = Duration::from_millis(500);
        /// Raises an event when the oldest change that the vault lacks is older than this; zero switches it
        /// off. Default 15 min.
        pub rpo_threshold: Duration = Duration::from_secs(15 * 60);
        /// Limits the puts to the vault in flight at once. Default 4.
        pub puts_in_flight_max: u32 = 4;
        /// Publishes segments in the catalog at most this often; they are put at once. Above zero there
        /// are fewer catalog versions, a gateway packs more segments into one object, and the RPO grows
        /// by this time. Default zero.
        pub catalog_interval: Duration = Duration::ZERO;
        /// Publishes a catalog version this often even if there is nothing to ship, so that readers see
        /// by its age that a copy of the vault is frozen; zero switches it off. Points by policy are
        /// shipped too, so none is needed with the default interval of those. Default 1 h.
        pub heartbeat_interval: Duration = Duration::from_secs(60 * 60);
        /// Asks the vault this often whether a planned failover wants the volume, or took it: two small
        /// requests. At zero the agent notices only when it ships. Default 5 s.
        pub failover_poll_interval: Duration = Duration::from_secs(5);
        /// Limits the pause between two tries to reach the vault. Default 30 s.
        pub retry_interval_max: Duration = Duration::from_secs(30);
        /// Limits the bandwidth of shipping by hour and weekday. Segments go at the speed of the link
        /// with pauses between them, so smaller segments make it smoother. Default: no limit.
        pub bandwidth: Bandwidth = Bandwidth::default();
        /// Decides how long recovery states stay in the vault. With none this agent folds nothing.
        /// Default: that of [`RetentionPolicy`].
        pub retention: Option<RetentionPolicy> = Some(RetentionPolicy::default());
        /// Carries retention out this often while the volume is protected. Default 10 min.
        pub retention_interval: Duration = Duration::from_secs(10 * 60);
    }
}

impl Policy {
    /// Sets one field from text, as policy files and other languages do. A time is text that
    /// [`parse_duration`] reads, such as `60s`. With `_ms` after the name, such as
    /// `crash_point_interval_ms`, a bare number counts milliseconds.
    ///
    /// `when_full` is `degrade` or `block`, `content` is `data` or `extents-only`, `compression` is
    /// `none` or `zstd:LEVEL`. `quiesce` is one specification per line. `bandwidth` is the text of
    /// a [`Bandwidth`], `retention` is `none` or the text of a [`RetentionPolicy`]. `InvalidInput`
    /// identifies the field and what it accepts.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let bad = |expected: &str| {
            Error::new(ErrorKind::InvalidInput, "set policy", name).expected(expected).found(value)
        };
        let number = || value.parse::<u64>().map_err(|_| bad("a whole number"));
        let (time_name, bare) = match name.strip_suffix("_ms") {
            Some(time_name) => (time_name, Some(TimeUnit::Milliseconds)),
            None => (name, None),
        };
        if let Some(time) = self.time_mut(time_name) {
            *time = parse_duration(value, bare).map_err(|_| match bare {
                None => bad("a time such as 250ms, 60s, 15m or 1d"),
                Some(_) => bad("milliseconds, or a time such as 250ms, 60s, 15m or 1d"),
            })?;
            return Ok(());
        }
        match name {
            "memory_budget_bytes" => self.memory_budget_bytes = number()?,
            "when_full" => {
                self.when_full = match value {
                    "degrade" => WhenFull::Degrade,
                    "block" => WhenFull::Block,
                    _ => return Err(bad("degrade or block")),
                }
            }
            "content" => {
                self.content = match value {
                    "data" => CaptureContent::Data,
                    "extents-only" => CaptureContent::ExtentsOnly,
                    _ => return Err(bad("data or extents-only")),
                }
            }
            "region_bytes" => self.region_bytes = number()?,
            "marked_regions_max" => self.marked_regions_max = number()?,
            "segment_bytes_max" => self.segment_bytes_max = number()?,
            "frame_bytes" => self.frame_bytes = number()?,
            "compression" => {
                self.compression = match value.split_once(':') {
                    None if value == "none" => Compression::None,
                    Some(("zstd", level)) => {
                        Compression::Zstd(level.parse().map_err(|_| bad("none or zstd:LEVEL"))?)
                    }
                    _ => return Err(bad("none or zstd:LEVEL")),
                }
            }
            "compression_cpu_percent_max" => {
                self.compression_cpu_percent_max =
                    value.parse().map_err(|_| bad("a whole number"))?;
            }
            "spool_bytes_max" => self.spool_bytes_max = number()?,
            "quiesce" => {
                let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
                let lines: Vec<String> = lines.map(str::to_owned).collect();
                if lines.iter().any(|line| !line.contains(':')) {
                    return Err(bad("lines such as fs:/mnt or postgresql:dbname=app"));
                }
                self.quiesce = lines;
            }
            "puts_in_flight_max" => {
                self.puts_in_flight_max = value.parse().map_err(|_| bad("a whole number"))?;
            }
            "bandwidth" => {
                self.bandwidth = value.parse().map_err(|error: Error| {
                    bad("a schedule such as 8M; mon-fri 08:00-18:00 2M").caused_by(error)
                })?;
            }
            "retention" if value == "none" => self.retention = None,
            "retention" => {
                let parsed = value.parse().map_err(|error: Error| {
                    bad("none or steps such as 2h all; 24h hourly; 30d daily").caused_by(error)
                })?;
                self.retention = Some(parsed);
            }
            _ => {
                return Err(Error::new(ErrorKind::InvalidInput, "set policy", name)
                    .expected(format_args!("one of {}", Self::NAMES.join(", ")))
                    .found(name));
            }
        }
        Ok(())
    }

    /// Finds a field that is a time, by its name.
    fn time_mut(&mut self, name: &str) -> Option<&mut Duration> {
        Some(match name {
            "segment_interval" => &mut self.segment_interval,
            "crash_point_interval" => &mut self.crash_point_interval,
            "app_point_interval" => &mut self.app_point_interval,
            "quiesce_limit" => &mut self.quiesce_limit,
            "cut_limit" => &mut self.cut_limit,
            "freeze_limit" => &mut self.freeze_limit,
            "rpo_threshold" => &mut self.rpo_threshold,
            "catalog_interval" => &mut self.catalog_interval,
            "heartbeat_interval" => &mut self.heartbeat_interval,
            "failover_poll_interval" => &mut self.failover_poll_interval,
            "retry_interval_max" => &mut self.retry_interval_max,
            "retention_interval" => &mut self.retention_interval,
            _ => return None,
        })
    }

    /// Checks every range. `InvalidInput` identifies the first field outside of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::InvalidInput, "use policy", name)
                .expected(format_args!("{low} to {high}"))
                .found(value))
        };
        let check_time = |name: &str, value: Duration, low_ms: u64, high_ms: u64| {
            let (low, high) = (Duration::from_millis(low_ms), Duration::from_millis(high_ms));
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::InvalidInput, "use policy", name)
                .expected(format_args!("{} to {}", duration_text(low), duration_text(high)))
                .found(duration_text(value)))
        };
        check("memory_budget_bytes", self.memory_budget_bytes, 1 << 20, 1 << 40)?;
        check("region_bytes", self.region_bytes, 64 << 10, 64 << 20)?;
        if !self.region_bytes.is_power_of_two() {
            return Err(Error::new(ErrorKind::InvalidInput, "use policy", "region_bytes")
                .expected("a power of two")
                .found(self.region_bytes));
        }
        check("marked_regions_max", self.marked_regions_max, 1, 1 << 30)?;
        check("segment_bytes_max", self.segment_bytes_max, 64 << 10, 4 << 30)?;
        check_time("segment_interval", self.segment_interval, 1, 86_400_000)?;
        check("frame_bytes", self.frame_bytes, 4 << 10, 8 << 20)?;
        if let Compression::Zstd(level) = self.compression {
            check("compression", u64::try_from(level).unwrap_or(0), 1, 19)?;
        }
        let percent = u64::from(self.compression_cpu_percent_max);
        check("compression_cpu_percent_max", percent, 1, 100)?;
        check("spool_bytes_max", self.spool_bytes_max, 1 << 20, 1 << 60)?;
        check_time("quiesce_limit", self.quiesce_limit, 1, 600_000)?;
        check_time("cut_limit", self.cut_limit, 0, 3_600_000)?;
        check_time("freeze_limit", self.freeze_limit, 0, 60_000)?;
        check("puts_in_flight_max", u64::from(self.puts_in_flight_max), 1, 64)?;
        check_time("catalog_interval", self.catalog_interval, 0, 3_600_000)?;
        check_time("heartbeat_interval", self.heartbeat_interval, 0, 7 * 86_400_000)?;
        check_time("failover_poll_interval", self.failover_poll_interval, 0, 3_600_000)?;
        check_time("retry_interval_max", self.retry_interval_max, 1, 86_400_000)?;
        check_time("retention_interval", self.retention_interval, 1, 7 * 86_400_000)?;
        self.retention.as_ref().map_or(Ok(()), RetentionPolicy::validate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_set_and_bad_values_are_named() {
        let mut policy = Policy::default();
        policy.validate().expect("the default is valid");
        for name in Policy::NAMES {
            let value = match name {
                "when_full" => "block",
                "quiesce" => "postgresql:\nfs:/mnt",
                "segment_interval" | "quiesce_limit" | "cut_limit" | "freeze_limit"
                | "retry_interval_max" => "5s",
                "catalog_interval"
                | "heartbeat_interval"
                | "failover_poll_interval"
                | "retention_interval" => "0.5h",
                "crash_point_interval" | "app_point_interval" | "rpo_threshold" => "1d",
                "content" => "extents-only",
                "compression" => "zstd:3",
                "retention" => "1h all; 7d daily",
                "puts_in_flight_max" | "compression_cpu_percent_max" => "8",
                _ => "1048576",
            };
            policy.set(name, value).expect(name);
            let before = policy.clone();
            let error = policy.set(name, "-x").expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(policy, before, "what is refused changes nothing");
        }
        policy.validate().expect("all in range");
        policy.set("catalog_interval", "2h").expect("a time");
        let error = policy.validate().expect_err("too long").to_string();
        assert!(error.contains("catalog_interval: expected 0s to 1h, found 2h"), "{error}");
        policy.set("catalog_interval", "0").expect("zero needs no unit");
        policy.region_bytes = 3 << 20;
        assert_eq!(policy.validate().expect_err("not a power").object(), "region_bytes");
        assert!(policy.set("speed", "1").is_err() && policy.set("region_bytes_ms", "1").is_err());
    }

    #[test]
    fn times_are_text_with_a_unit_and_names_with_ms_take_milliseconds() {
        let mut policy = Policy::default();
        for (name, value) in [
            ("crash_point_interval", "90s"),
            ("crash_point_interval", "1.5m"),
            ("crash_point_interval_ms", "90000"),
            ("crash_point_interval_ms", "90s"),
        ] {
            policy.crash_point_interval = Duration::ZERO;
            policy.set(name, value).expect(name);
            assert_eq!(policy.crash_point_interval, Duration::from_secs(90), "{name} = {value}");
        }
        let error = policy.set("crash_point_interval", "90000").expect_err("no unit").to_string();
        assert!(error.contains("a time such as 250ms, 60s") && error.contains("90000"), "{error}");
    }
}
