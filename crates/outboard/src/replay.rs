//! Reading the log from one position to another as fast as it can be decoded.

use std::future::poll_fn;
use std::task::Poll;

use outboard_core::{
    Log, Message, PortError, Position, TypeSet,
    log::{Limit, Page},
};

/// How many messages one page has at most; a reader gives its connection back between pages.
const PAGE: usize = 1_000;

/// How many positions one page looks at, at most.
const SCAN: usize = 10_000;

/// Calls `each` for every message after `from` and up to `to` whose type is in the set, in order. Returns how many
/// there were.
///
/// The next page is read while `each` works on this one, so that a log on another thread and a decoder here keep two
/// cores busy. Nothing is written and no cursor moves. Stops early at the log's tip.
///
/// ```
/// use std::sync::Arc;
/// use outboard::core::{Log, NewMessage, Position, TypeSet};
/// # use outboard::App;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let running = App::memory().await?.start().await?;
/// let log = running.log();
/// log.append(vec![NewMessage::new("orders/confirm", "{}"); 3].into()).await?;
/// let mut ids = Vec::new();
/// outboard::replay(&**log, TypeSet::all(), Position::START, Position(2), |message| ids.push(message.id.0)).await?;
/// assert_eq!(ids, [1, 2]);
/// # running.shutdown().await?;
/// # anyhow::Ok(())
/// # }).unwrap();
/// ```
pub async fn replay(
    log: &dyn Log,
    types: TypeSet,
    from: Position,
    to: Position,
    mut each: impl FnMut(&Message),
) -> Result<u64, PortError> {
    let read = |after: Position| {
        let scan = usize::try_from(to.0.saturating_sub(after.0)).unwrap_or(SCAN).min(SCAN);
        log.read(after, types.clone(), Limit { scan, ..Limit::messages(PAGE) })
    };
    let mut count = 0;
    let mut after = from;
    if after >= to {
        return Ok(0);
    }
    let mut page: Page = read(after).await?;
    loop {
        let at_end = page.next >= to || page.next <= after;
        after = page.next;
        let mut ahead = (!at_end).then(|| read(after));
        if let Some(ahead) = &mut ahead {
            // One poll sends the request to the log; its answer is taken when this page is done.
            let early = poll_fn(|context| Poll::Ready(ahead.as_mut().poll(context))).await;
            if let Poll::Ready(next) = early {
                count += hand_out(&page, to, &mut each);
                page = next?;
                continue;
            }
        }
        count += hand_out(&page, to, &mut each);
        match ahead {
            Some(ahead) => page = ahead.await?,
            None => return Ok(count),
        }
    }
}

fn hand_out(page: &Page, to: Position, each: &mut impl FnMut(&Message)) -> u64 {
    let mut count = 0;
    for message in page.messages.iter().take_while(|message| message.id <= to) {
        each(message);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outboard_core::NewMessage;

    use super::*;
    use crate::App;

    async fn filled(app: App) -> anyhow::Result<Arc<dyn Log>> {
        let running = app.start().await?;
        let kind = |number: u64| if number.is_multiple_of(2) { "numbers/even" } else { "numbers/odd" };
        let messages = (1..=3_500_u64).map(|number| NewMessage::new(kind(number), number.to_string()));
        running.log().append(messages.collect::<Vec<_>>().into()).await?;
        Ok(running.log().clone())
    }

    async fn is_exact(log: &dyn Log) -> anyhow::Result<()> {
        let even: TypeSet = ["numbers/even".parse().map_err(anyhow::Error::msg)?].into_iter().collect();
        for (types, step) in [(TypeSet::all(), 1), (even, 2)] {
            for (from, to) in [(0, 3_500), (0, 1_000), (998, 2_002), (10, 10), (20, 10), (3_000, 9_999)] {
                let mut seen = Vec::new();
                let count = replay(log, types.clone(), Position(from), Position(to), |message| {
                    assert_eq!(message.payload, message.id.to_string());
                    seen.push(message.id.0);
                });
                let count = count.await?;
                let expected: Vec<u64> =
                    (from + 1..=to.min(3_500)).filter(|number| number.is_multiple_of(step)).collect();
                assert_eq!(seen, expected, "{from}..={to} by {step}");
                assert_eq!(count, expected.len() as u64);
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn pages_in_memory_join_without_gap_or_repetition() -> anyhow::Result<()> {
        is_exact(&*filled(App::memory().await?).await?).await
    }

    #[tokio::test]
    async fn pages_of_a_directory_are_read_ahead_without_gap_or_repetition() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        is_exact(&*filled(App::open(directory.path()).await?).await?).await
    }
}
