//! How many messages may be in hand.

use outboard_core::{consumer::Flow, queue::Prefetch};

/// Where a prefetch that follows the handlers begins, and what it never falls below.
const SMALLEST: u32 = 64;

/// The bound of what is in hand, fixed or following the handlers.
#[derive(Debug)]
pub(super) struct Window {
    /// As it was configured.
    bound: u32,
    flow: Flow,
    /// The bound for now, when it follows the handlers.
    follows: Option<u32>,
    /// Settled since it was last looked at.
    settled: u32,
    /// The most that was in workers' hands since then.
    most_handed: u32,
}

impl Window {
    pub(super) fn new(prefetch: Prefetch) -> Self {
        let (bound, follows) = match prefetch {
            Prefetch::Fixed(bound) => (bound, None),
            Prefetch::Auto { max } => (max, Some(SMALLEST.min(max))),
        };
        let bound = bound.max(1);
        Self { bound, flow: Flow::Running { prefetch: bound }, follows, settled: 0, most_handed: 0 }
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// How many is as it was configured.
    pub(super) fn set(&mut self, flow: Flow) {
        self.flow = match flow {
            Flow::Paused => Flow::Paused,
            Flow::Running { .. } => Flow::Running { prefetch: self.bound },
        };
    }

    /// How many may be in hand now; 0 when paused.
    pub(super) fn size(&self) -> u32 {
        match (self.flow, self.follows) {
            (Flow::Paused, _) => 0,
            (Flow::Running { prefetch }, None) => prefetch,
            (Flow::Running { prefetch }, Some(now)) => now.min(prefetch),
        }
    }

    /// A worker waits although there would be more to do: twice as many from now on.
    pub(super) fn grow(&mut self) -> bool {
        let (Flow::Running { prefetch }, Some(now)) = (self.flow, &mut self.follows) else { return false };
        let before = *now;
        *now = now.saturating_mul(2).min(prefetch).max(before.min(prefetch));
        *now > before
    }

    pub(super) fn settled(&mut self, handed: usize) {
        self.settled += 1;
        self.most_handed = self.most_handed.max(handed as u32);
    }

    /// Called twice a second: what workers neither hold nor soon get is left to others.
    pub(super) fn look(&mut self, handed: usize) {
        let most_handed = self.most_handed.max(handed as u32);
        if let Some(now) = &mut self.follows {
            let is_idle = self.settled <= *now / 4 && most_handed <= *now / 4;
            if is_idle {
                *now = (*now / 2).max(SMALLEST).min(*now);
            }
        }
        (self.settled, self.most_handed) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_follows_its_handlers_within_its_bound() {
        let mut window = Window::new(Prefetch::Auto { max: 200 });
        assert_eq!(window.size(), 64);
        assert!(window.grow() && window.grow() && !window.grow());
        assert_eq!(window.size(), 200);
        window.look(150);
        assert_eq!(window.size(), 200);
        window.look(3);
        window.look(3);
        assert_eq!(window.size(), 64);
        window.set(Flow::Paused);
        assert_eq!(window.size(), 0);
        assert_eq!(Window::new(Prefetch::Auto { max: 5 }).size(), 5);
    }

    #[test]
    fn a_fixed_one_stays() {
        let mut window = Window::new(Prefetch::Fixed(7));
        assert!(!window.grow());
        window.look(0);
        assert_eq!(window.size(), 7);
        window.set(Flow::Running { prefetch: 3 });
        assert_eq!(
            window.size(),
            7,
            "an outage of the target asks for more or less, and the configuration decides"
        );
    }
}
