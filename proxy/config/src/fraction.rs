//! `envoy.type.v3.FractionalPercent`: a share of requests.

/// A share: `numerator` of `denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    pub const ALL: Fraction = Fraction { numerator: 100, denominator: 100 };
    pub const NONE: Fraction = Fraction { numerator: 0, denominator: 100 };

    /// Whether a request with this random number is in the share.
    #[must_use]
    pub fn holds(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_random_numbers() {
        let check = |numerator, denominator, expected: usize| {
            let fraction = Fraction { numerator, denominator };
            assert_eq!((0..10_000).filter(|random| fraction.holds(*random)).count(), expected, "{fraction:?}");
        };
        check(0, 100, 0);
        check(100, 100, 10_000);
        check(250, 100, 10_000);
        check(25, 100, 2_500);
        check(1, 10_000, 1);
        check(5_000, 1_000_000, 5_000);
    }
}
