//! What each confirm, return, deadline and loss makes of a window.

use super::*;
use crate::rabbitmq::codec::field::ShortString;

/// Nobody asks it: what is told is looked at before.
#[derive(Debug)]
struct Nobody;

impl Answers for Nobody {
    fn answer(&self, _: u64, _: Result<(), PortError>) {}
}

const WITHIN: Duration = Duration::from_secs(10);

fn limits(window: usize, window_bytes: usize) -> Limits {
    Limits { window, window_bytes, line: 10, line_bytes: 100, within: WITHIN }
}

fn publication(exchange: &str, bytes: usize) -> Publication {
    let exchange = ShortString::new(exchange).unwrap();
    Publication { exchange, body: vec![0; bytes].into(), ..Publication::default() }
}

/// A window with publications of these sizes, numbered from 0.
fn window(limits: Limits, now: Instant, sizes: &[usize]) -> Window {
    let mut window = Window::new(limits);
    push(&mut window, now, sizes);
    window
}

fn push(window: &mut Window, now: Instant, sizes: &[usize]) {
    let to: Arc<dyn Answers> = Arc::new(Nobody);
    (0..).zip(sizes).for_each(|(token, &bytes)| window.push(publication("", bytes), now, &to, token));
}

fn send(window: &mut Window) -> Vec<usize> {
    let mut sent = Vec::new();
    window.send(|publication| sent.push(publication.body.len()));
    sent
}

fn confirm(window: &mut Window, number: u64, multiple: bool, finished: &mut Finished) {
    window.confirmed(number, multiple, true, finished).expect("it was sent");
}

fn told(finished: &mut Finished) -> Vec<(u64, Option<Kind>)> {
    let told = finished.drain(..).map(|(_, token, result)| (token, result.err().map(|error| error.kind)));
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn the_window_is_bounded_by_count_and_by_bytes_and_one_that_is_too_large_goes_alone() {
    let now = Instant::now();
    let mut finished = Finished::new();
    let mut by_count = window(limits(2, 100), now, &[1, 2, 3, 4]);
    assert_eq!(send(&mut by_count), [1, 2]);
    confirm(&mut by_count, 1, false, &mut finished);
    assert_eq!(send(&mut by_count), [3]);
    let mut by_bytes = window(limits(9, 10), now, &[6, 4, 1, 50, 1]);
    assert_eq!(send(&mut by_bytes), [6, 4]);
    confirm(&mut by_bytes, 2, true, &mut finished);
    assert_eq!(send(&mut by_bytes), [1], "50 do not fit beside it");
    confirm(&mut by_bytes, 3, true, &mut finished);
    assert_eq!(send(&mut by_bytes), [50]);
    confirm(&mut by_bytes, 4, true, &mut finished);
    assert_eq!(send(&mut by_bytes), [1]);
    confirm(&mut by_bytes, 5, true, &mut finished);
    assert!(by_bytes.is_empty() && by_bytes.unconfirmed_bytes == 0 && by_bytes.line_bytes == 0);
}

#[tokio::test(start_paused = true)]
async fn confirms_come_in_any_order_and_for_many_at_once() {
    let mut window = window(limits(9, 100), Instant::now(), &[1; 6]);
    let mut finished = Finished::new();
    send(&mut window);
    confirm(&mut window, 3, false, &mut finished);
    assert_eq!(told(&mut finished), [(2, None)]);
    confirm(&mut window, 4, true, &mut finished);
    assert_eq!(told(&mut finished), [(0, None), (1, None), (3, None)], "once each");
    window.confirmed(6, true, false, &mut finished).expect("it was sent");
    assert_eq!(told(&mut finished), [(4, Some(Kind::Full)), (5, Some(Kind::Full))]);
    confirm(&mut window, 6, true, &mut finished);
    assert!(told(&mut finished).is_empty() && window.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_number_that_was_never_sent_is_a_mistake_and_costs_nothing() {
    let mut window = window(limits(9, 100), Instant::now(), &[1; 3]);
    let mut finished = Finished::new();
    send(&mut window);
    for number in [0, 4, u64::MAX] {
        for multiple in [false, true] {
            let error = window.confirmed(number, multiple, true, &mut finished).unwrap_err();
            assert_eq!(error.kind, Kind::Corrupt);
            assert!(error.message.contains("and 3 were sent"), "{error}");
        }
    }
    assert!(told(&mut finished).is_empty());
    assert_eq!(window.unconfirmed(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_out_goes_out_again_first_and_in_its_order() {
    let mut window = window(limits(3, 100), Instant::now(), &[1, 2, 3, 4]);
    let mut finished = Finished::new();
    assert_eq!(send(&mut window), [1, 2, 3]);
    confirm(&mut window, 2, false, &mut finished);
    window.retreat();
    assert_eq!(send(&mut window), [1, 3, 4]);
    confirm(&mut window, 3, true, &mut finished);
    assert_eq!(told(&mut finished), [(1, None), (0, None), (2, None), (3, None)]);
}

#[tokio::test(start_paused = true)]
async fn whose_time_is_over_is_told_whether_it_was_sent() {
    let now = Instant::now();
    let mut window = window(limits(2, 100), now, &[1, 2, 3]);
    let mut finished = Finished::new();
    send(&mut window);
    assert_eq!(window.next_deadline(), Some(now + WITHIN));
    window.expire(now + WITHIN, "slow", &mut finished);
    let expected = [(0, Some(Kind::Unknown)), (1, Some(Kind::Unknown)), (2, Some(Kind::Unavailable))];
    assert_eq!(told(&mut finished), expected);
    assert_eq!((window.next_deadline(), window.unconfirmed_bytes), (None, 0));
    push(&mut window, now + WITHIN, &[5]);
    assert_eq!(send(&mut window), [5], "their places are free");
    confirm(&mut window, 2, true, &mut finished);
    assert!(told(&mut finished).is_empty(), "each is told once");
    assert_eq!(window.unconfirmed(), 1, "a late confirm is not that of another one");
    window.retreat();
    window.expire(now + 2 * WITHIN, "away", &mut finished);
    assert_eq!(told(&mut finished), [(0, Some(Kind::Unknown))], "it was sent, and is not any more");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_owes_is_bounded_by_count_and_by_bytes() {
    for (bound, sizes, sent) in
        [(limits(2, 100), [1; 2], 2 * OWED_WINDOWS), (limits(9, 4), [4; 2], OWED_WINDOWS)]
    {
        let mut now = Instant::now();
        let mut window = Window::new(bound);
        let mut finished = Finished::new();
        let mut count = 0;
        while {
            push(&mut window, now, &sizes);
            let one = send(&mut window).len();
            now += WITHIN;
            window.expire(now, "slow", &mut finished);
            count += one;
            one > 0
        } {}
        assert_eq!((count, window.is_overdue()), (sent, true));
        push(&mut window, now, &[3]);
        assert!(send(&mut window).is_empty());
        // A late confirm for the first, and one for all of them.
        confirm(&mut window, 1, false, &mut finished);
        assert_eq!((send(&mut window), window.is_overdue()), (vec![3], false));
        confirm(&mut window, sent as u64, true, &mut finished);
        assert_eq!((window.owed.len(), window.owed_bytes, window.unconfirmed()), (0, 0, 1));
        assert_eq!(window.out.len(), 1, "what is answered takes no room");
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_out_alone_is_not_blamed_for_what_is_overdue() {
    let now = Instant::now();
    let later = now + WITHIN / 2;
    let mut window = window(limits(9, 100), now, &[1]);
    push(&mut window, later, &[2]);
    let mut finished = Finished::new();
    let error = PortError::new(Kind::Mismatch, "something is wrong");
    send(&mut window);
    window.blame(&error, &mut finished);
    assert_eq!(send(&mut window), [1]);
    window.expire(now + WITHIN, "slow", &mut finished);
    assert_eq!(told(&mut finished), [(0, Some(Kind::Unknown))]);
    assert_eq!(send(&mut window), [2]);
    window.blame(&error, &mut finished);
    assert!(told(&mut finished).is_empty(), "it may have been the overdue one");
    assert_eq!(send(&mut window), [2]);
    window.blame(&error, &mut finished);
    assert_eq!(told(&mut finished), [(0, Some(Kind::Invalid))]);
}

#[tokio::test(start_paused = true)]
async fn an_unnamed_mistake_is_found_by_sending_each_alone() {
    let mut window = window(limits(9, 100), Instant::now(), &[1, 2, 3]);
    let mut finished = Finished::new();
    let error = PortError::new(Kind::Mismatch, "something is wrong");
    send(&mut window);
    window.blame(&error, &mut finished);
    assert!(told(&mut finished).is_empty(), "it may be any of them");
    assert_eq!(send(&mut window), [1]);
    assert!(send(&mut window).is_empty());
    confirm(&mut window, 1, false, &mut finished);
    assert_eq!(send(&mut window), [2]);
    window.blame(&error, &mut finished);
    assert_eq!(told(&mut finished), [(0, None), (1, Some(Kind::Invalid))]);
    assert_eq!(send(&mut window), [3]);
}
