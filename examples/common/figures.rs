//! The counts of a process, which it sends as one line of `key=value` pairs, and the latencies of requests.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};

/// Defines a struct of numbers that is written and parsed as `name=1 other=2`.
macro_rules! figures {
    ($(#[$doc:meta])* $name:ident { $($field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct $name {
            $(pub(crate) $field: u64,)*
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let pairs = [$((stringify!($field), self.$field),)*];
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let space = if index == 0 { "" } else { " " };
                    write!(f, "{space}{key}={value}")?;
                }
                Ok(())
            }
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;
            fn from_str(line: &str) -> anyhow::Result<Self> {
                use anyhow::Context as _;
                let mut pairs: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
                for word in line.split_whitespace() {
                    let (key, value) = word.split_once('=').with_context(|| format!("{word:?} is no key=value"))?;
                    pairs.insert(key, value.parse().with_context(|| format!("in {word:?}"))?);
                }
                let figures = $name { $($field: pairs.remove(stringify!($field)).unwrap_or(0),)* };
                if let Some((key, _)) = pairs.pop_first() {
                    anyhow::bail!("nobody knows the figure {key:?}");
                }
                Ok(figures)
            }
        }

        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}
pub(crate) use figures;

/// A histogram of latencies: the number of requests in each class of latencies, by the longest latency of the class in
/// nanoseconds. The longest one of a class is at most a hundredth longer than the shortest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latency(BTreeMap<u64, u64>);

/// The longest latency that is recorded, in nanoseconds: a minute. A longer one counts as this one.
const MAX_LATENCY: u64 = 60_000_000_000;

/// The number of leading binary digits that the latencies of a class have in common.
const CLASS_DIGITS: u32 = 8;

/// Returns the longest latency of the class to which this one belongs.
fn longest_of_class(nanoseconds: u64) -> u64 {
    let nanoseconds = nanoseconds.clamp(1, MAX_LATENCY);
    let other_digits = (nanoseconds.ilog2() + 1).saturating_sub(CLASS_DIGITS);
    nanoseconds | ((1 << other_digits) - 1)
}

impl Latency {
    pub(crate) fn add(&mut self, nanoseconds: u128) {
        self.add_many(u64::try_from(nanoseconds).unwrap_or(u64::MAX), 1);
    }

    fn add_many(&mut self, nanoseconds: u64, count: u64) {
        *self.0.entry(longest_of_class(nanoseconds)).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Latency) {
        for (longest, count) in &other.0 {
            self.add_many(*longest, *count);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_nanos(self.0.keys().next_back().copied().unwrap_or(0))
    }

    /// Returns the number of requests that took longer than `time`.
    pub(crate) fn slower_than(&self, time: Duration) -> u64 {
        let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let slower = self.0.iter().filter(|(longest, _)| **longest > limit);
        slower.map(|(_, count)| count).sum()
    }

    /// Returns the time within which so many percent of the requests ended, in nanoseconds; 0 if there were none.
    pub(crate) fn percentile_ns(&self, percent: u64) -> u64 {
        let rank = (self.requests() * percent).div_ceil(100);
        let mut counted = 0;
        let mut reaches = |count: u64| {
            counted += count;
            counted >= rank
        };
        let class = self.0.iter().find(|(_, count)| reaches(**count));
        class.map_or(0, |(longest, _)| *longest)
    }

    /// Returns the time within which so many percent of the requests ended; 0 if there were none.
    pub(crate) fn percentile(&self, percent: u64) -> Duration {
        Duration::from_nanos(self.percentile_ns(percent))
    }

    /// Returns the time within which so many percent of the requests ended, in microseconds; 0 if there were none.
    pub(crate) fn percentile_us(&self, percent: u64) -> f64 {
        self.percentile(percent).as_secs_f64() * 1e6
    }
}

impl fmt::Display for Latency {
    /// Writes the longest latency of each class in nanoseconds, and the number of its requests: `1023*5,2047*1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (longest, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{longest}*{count}")?;
        }
        Ok(())
    }
}

impl FromStr for Latency {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut latency = Latency::default();
        for bucket in text.split(',').filter(|bucket| !bucket.is_empty()) {
            let (longest, count) = bucket
                .split_once('*')
                .with_context(|| format!("{bucket:?} is no time*count"))?;
            latency.add_many(longest.parse()?, count.parse()?);
        }
        Ok(latency)
    }
}
