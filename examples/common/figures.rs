//! What processes count, as one line of `key=value` pairs, and how long things took.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use hdrhistogram::Histogram;

/// A struct of numbers which reads and writes itself as `name=1 other=2`.
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

/// How long requests took, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // Up to a minute, to a hundredth.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 2);
        Latency(histogram.unwrap_or_else(|error| unreachable!("the bounds are fixed: {error}")))
    }
}

impl Latency {
    pub(crate) fn add(&mut self, nanoseconds: u128) {
        self.0
            .saturating_record(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Latency) {
        for bucket in other.0.iter_recorded() {
            self.0
                .saturating_record_n(bucket.value_iterated_to(), bucket.count_at_value());
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// What that share of the requests took at most; 0 if there were none.
    pub(crate) fn nanoseconds(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The same in microseconds.
    pub(crate) fn microseconds(&self, quantile: f64) -> f64 {
        Duration::from_nanos(self.nanoseconds(quantile)).as_secs_f64() * 1e6
    }
}

impl fmt::Display for Latency {
    /// The number of requests for each time: `1023*5,2047*1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bucket) in self.0.iter_recorded().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(
                f,
                "{comma}{}*{}",
                bucket.value_iterated_to(),
                bucket.count_at_value()
            )?;
        }
        Ok(())
    }
}

impl FromStr for Latency {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut latency = Latency::default();
        for bucket in text.split(',').filter(|bucket| !bucket.is_empty()) {
            let (value, count) = bucket
                .split_once('*')
                .with_context(|| format!("{bucket:?} is no time*count"))?;
            latency
                .0
                .saturating_record_n(value.parse()?, count.parse()?);
        }
        Ok(latency)
    }
}
