//! What one worker has done with a log.

use std::collections::VecDeque;

use crate::message::Position;

/// How far above its low-water mark a cursor can remember what is done.
pub const WINDOW: u64 = 65_536;

/// A low-water mark (everything up to it is done) and a bitmap of what is done above it.
///
/// ```
/// use outboard_core::{Position, cursor::Cursor};
/// let mut cursor = Cursor::at(Position(10));
/// cursor.mark(Position(12), Position(12));
/// assert_eq!(cursor.low(), Position(10));
/// cursor.mark(Position(11), Position(11));
/// assert_eq!(cursor.low(), Position(12));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    low: u64,
    /// `words[i]` holds positions `(low / 64 + i) * 64 ..+ 64`, one bit each; bits at or below `low` do not matter.
    words: VecDeque<u64>,
}

impl Cursor {
    /// A cursor for which everything up to `low` is done, and nothing above it.
    pub fn at(low: Position) -> Self {
        Self { low: low.0, words: VecDeque::new() }
    }

    /// Everything up to here is done.
    pub fn low(&self) -> Position {
        Position(self.low)
    }

    /// The highest position that [`Cursor::mark`] can take now.
    pub fn limit(&self) -> Position {
        Position(self.low + WINDOW)
    }

    /// Whether this position is done.
    pub fn is_done(&self, position: Position) -> bool {
        if position.0 <= self.low {
            return true;
        }
        let index = (position.0 / 64 - self.low / 64) as usize;
        self.words.get(index).is_some_and(|word| word >> (position.0 % 64) & 1 == 1)
    }

    /// Marks `from..=to` as done. Returns false, and changes nothing, when that does not fit into the window.
    pub fn mark(&mut self, from: Position, to: Position) -> bool {
        if to < from || to.0 <= self.low {
            return true;
        }
        if from.0 <= self.low + 1 {
            self.raise(to.0);
            self.advance();
            return true;
        }
        if to > self.limit() {
            return false;
        }
        let base = self.low / 64;
        let last = (to.0 / 64 - base) as usize;
        if self.words.len() <= last {
            self.words.resize(last + 1, 0);
        }
        for index in (from.0 / 64 - base) as usize..=last {
            let start = (base + index as u64) * 64;
            let below = from.0.saturating_sub(start);
            let above = (start + 63).saturating_sub(to.0);
            self.words[index] |= (u64::MAX << below) & (u64::MAX >> above);
        }
        true
    }

    /// Moves `low` to `to`, which lies above it.
    fn raise(&mut self, to: u64) {
        let drop = ((to / 64 - self.low / 64) as usize).min(self.words.len());
        self.words.drain(..drop);
        self.low = to;
    }

    /// Moves `low` over the done positions that follow it.
    fn advance(&mut self) {
        while let Some(&word) = self.words.front() {
            let next = self.low + 1;
            if next.is_multiple_of(64) {
                // The word of `low` is used up; the next position is the first one of the next word.
                let Some(&following) = self.words.get(1) else { return };
                if following & 1 == 0 {
                    return;
                }
                self.words.pop_front();
                self.low = next;
                continue;
            }
            let run = u64::from((word >> (next % 64)).trailing_ones()).min(64 - next % 64);
            if run == 0 {
                return;
            }
            self.low += run;
        }
    }

    /// How many positions above `low` are done.
    pub fn done_above(&self) -> u64 {
        (0..self.words.len()).map(|index| u64::from(self.above_low(index).count_ones())).sum()
    }

    /// The highest done position.
    pub fn highest(&self) -> Position {
        let highest = (0..self.words.len()).rev().find_map(|index| {
            let word = self.above_low(index);
            (word != 0).then(|| (self.low / 64 + index as u64) * 64 + 63 - u64::from(word.leading_zeros()))
        });
        Position(highest.unwrap_or(self.low))
    }

    /// A word with the bits at or below `low` cleared.
    fn above_low(&self, index: usize) -> u64 {
        let mask = if index > 0 {
            u64::MAX
        } else if self.low % 64 == 63 {
            0
        } else {
            u64::MAX << (self.low % 64 + 1)
        };
        self.words[index] & mask
    }

    /// The bitmap up to its highest set bit, little-endian words; empty when nothing above `low` is done.
    pub fn bitmap(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..self.words.len()).flat_map(|index| self.above_low(index).to_le_bytes()).collect();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes
    }

    /// The cursor that had this low-water mark and [`Cursor::bitmap`].
    pub fn restore(low: Position, bitmap: &[u8]) -> Self {
        let words = bitmap
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        let mut cursor = Self { low: low.0, words };
        cursor.advance();
        cursor
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The cursor against the obvious model, with random marks.
    #[test]
    fn agrees_with_a_set() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let start = random.u64(0..200);
            let mut cursor = Cursor::at(Position(start));
            let mut model: BTreeSet<u64> = BTreeSet::new();
            let mut low = start;
            for _ in 0..300 {
                let from = low + 1 + random.u64(0..300);
                let to = from + if random.bool() { 0 } else { random.u64(0..150) };
                assert!(cursor.mark(Position(from), Position(to)));
                model.extend(from..=to);
                while model.contains(&(low + 1)) {
                    low += 1;
                }
                assert_eq!(cursor.low(), Position(low), "seed {seed}");
                let above: Vec<u64> = model.range(low + 1..).copied().collect();
                assert_eq!(cursor.done_above(), above.len() as u64, "seed {seed}");
                assert_eq!(cursor.highest(), Position(above.last().copied().unwrap_or(low)));
                for position in low.saturating_sub(70)..low + 500 {
                    let expected = position <= low || model.contains(&position);
                    assert_eq!(
                        cursor.is_done(Position(position)),
                        expected,
                        "seed {seed} position {position}"
                    );
                }
                let restored = Cursor::restore(cursor.low(), &cursor.bitmap());
                assert_eq!(restored.bitmap(), cursor.bitmap());
                assert_eq!(restored.low(), cursor.low());
                cursor = restored;
            }
        }
    }

    #[test]
    fn refuses_what_lies_beyond_the_window() {
        let mut cursor = Cursor::at(Position(5));
        assert!(!cursor.mark(Position(7), Position(6 + WINDOW)));
        assert!(cursor.mark(Position(7), Position(5 + WINDOW)));
        assert!(cursor.mark(Position(6), Position(6)));
        assert_eq!(cursor.low(), Position(5 + WINDOW));
        assert!(cursor.bitmap().is_empty());
    }

    #[test]
    fn a_long_run_from_the_low_mark_needs_no_window() {
        let mut cursor = Cursor::at(Position(0));
        assert!(cursor.mark(Position(1), Position(1_000_000)));
        assert_eq!(cursor.low(), Position(1_000_000));
    }
}
