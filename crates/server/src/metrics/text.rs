//! The text format of Prometheus, version 0.0.4.

use std::{fmt::Write, time::Duration};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// Labels of one sample, as text.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// No labels.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// One more.
    pub(super) fn and(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        write(&mut self.0, format_args!("{name}=\"{escaped}\""));
        self
    }
}

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric.
    pub(super) fn begin(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value of the metric that was begun.
    pub(super) fn sample(&mut self, name: &str, labels: &Labels, value: f64) {
        match labels.0.as_str() {
            "" => write(&mut self.0, format_args!("{name} {value}\n")),
            labels => write(&mut self.0, format_args!("{name}{{{labels}}} {value}\n")),
        }
    }

    /// A metric with a single value.
    pub(super) fn one(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.begin(name, kind, help);
        self.sample(name, &Labels::none(), value);
    }

    /// A histogram from the count of each bucket and its upper bound; the last bucket is the one without a bound.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &Labels,
        buckets: impl ExactSizeIterator<Item = (Duration, u64)>,
        sum: Duration,
    ) {
        let (last, mut total) = (buckets.len().saturating_sub(1), 0);
        let bucket = format!("{name}_bucket");
        for (index, (bound, count)) in buckets.enumerate() {
            total += count;
            let bound = if index == last { "+Inf".to_owned() } else { bound.as_secs_f64().to_string() };
            self.sample(&bucket, &labels.clone().and("le", &bound), total as f64);
        }
        self.sample(&format!("{name}_sum"), labels, sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, total as f64);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

fn write(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a text takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_labels_are_escaped_and_buckets_add_up() {
        let mut text = Text::default();
        text.one("a_total", Kind::Counter, "Counts.", 3.0);
        text.begin("b_seconds", Kind::Histogram, "Lasts.");
        let buckets = [(Duration::from_millis(1), 2), (Duration::from_millis(2), 1), (Duration::MAX, 4)];
        text.histogram(
            "b_seconds",
            &Labels::none().and("w", "a\"b\\\n"),
            buckets.into_iter(),
            Duration::from_secs(2),
        );
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total 3\n\
            # HELP b_seconds Lasts.\n# TYPE b_seconds histogram\n\
            b_seconds_bucket{w=\"a\\\"b\\\\\\n\",le=\"0.001\"} 2\n\
            b_seconds_bucket{w=\"a\\\"b\\\\\\n\",le=\"0.002\"} 3\n\
            b_seconds_bucket{w=\"a\\\"b\\\\\\n\",le=\"+Inf\"} 7\n\
            b_seconds_sum{w=\"a\\\"b\\\\\\n\"} 2\nb_seconds_count{w=\"a\\\"b\\\\\\n\"} 7\n";
        assert_eq!(text.finish(), expected);
    }
}
