//! Medians of few runs.

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle one, or the mean of the middle two; 0 without any.
    pub fn median(&self) -> f64 {
        let (count, half) = (self.0.len(), self.0.len() / 2);
        match count {
            0 => 0.0,
            _ if count % 2 == 1 => self.0[half],
            _ => (self.0[half - 1] + self.0[half]) / 2.0,
        }
    }

    /// Distance of the least and the most, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        match (self.0.first(), self.0.last()) {
            (Some(least), Some(most)) if self.median() > 0.0 => (most - least) / self.median() * 100.0,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let mut series = Series::new();
        [5.0, 1.0, 3.0].into_iter().for_each(|value| series.push(value));
        assert_eq!((series.median(), series.spread_percent().round()), (3.0, 133.0));
        series.push(4.0);
        assert_eq!(series.median(), 3.5);
        assert_eq!(Series::new().median(), 0.0);
    }
}
