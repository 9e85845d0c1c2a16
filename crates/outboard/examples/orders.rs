//! A small shop: places orders, confirms them, and sweeps what lies around.
//!
//! `cargo run -p outboard --example orders -- shop-data` keeps everything in `shop-data`: run it twice, and it goes on
//! where it was. Without a directory it forgets.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use outboard::{
    App, AppState, Command, Context, Done, ExecuteError, Invalid, Outcome, Tick, Worker, core::Message,
};
use serde::{Deserialize, Serialize};

/// Places an order.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/place")]
struct PlaceOrder {
    #[command(min_value = 1)]
    order_id: u64,
    #[command(required, max_length = 200)]
    customer: String,
}

/// Confirms an order and tells the customer.
#[derive(Command, Serialize, Deserialize)]
#[command(name = "orders/confirm")]
struct ConfirmOrder {
    order_id: u64,
}

/// What the application knows: built from the log by `apply` functions, and what new orders are judged by.
type Orders = BTreeMap<u64, String>;

fn orders() -> AppState<Orders> {
    AppState::new(Orders::new)
        .validate_with(|orders, order: &PlaceOrder| {
            if orders.contains_key(&order.order_id) {
                return Err(Invalid::field("order_id", "taken", "is taken"));
            }
            Ok(())
        })
        .apply(|orders, order: &PlaceOrder| {
            orders.insert(order.order_id, order.customer.clone());
        })
}

/// What the worker knows in memory: gone with the process, rebuilt by `on_replay`.
#[derive(Default)]
struct Shop {
    confirmed: AtomicU64,
}

async fn place(cx: Context<Shop>, order: PlaceOrder) -> Outcome {
    // Commits together with the done mark: the confirmation follows exactly once, whatever crashes in between.
    cx.append(&ConfirmOrder { order_id: order.order_id })?;
    cx.keys().add("placed", 1)?;
    Ok(Done)
}

async fn confirm(cx: Context<Shop>, order: ConfirmOrder) -> Outcome {
    // A mail would be sent here. Its error would become a retry through `?`.
    println!("order {} is confirmed (message {}, attempt {})", order.order_id, cx.id(), cx.attempt());
    cx.state().confirmed.fetch_add(1, Relaxed);
    Ok(Done)
}

fn count_again(shop: &Shop, _order: ConfirmOrder, _message: &Message) {
    shop.confirmed.fetch_add(1, Relaxed);
}

async fn sweep(tick: Tick<Shop>) -> Outcome {
    println!("{} orders are confirmed so far", tick.state().confirmed.load(Relaxed));
    Ok(Done)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let orders = orders();
    let worker = Worker::new("orders", "Places and confirms orders", Shop::default())
        .on(place)
        .on(confirm)
        .on_replay(count_again)
        .every(Duration::from_secs(60), sweep);
    let app = match std::env::args().nth(1) {
        Some(directory) => App::open(directory).await?,
        None => App::memory().await?,
    };
    let running = app.state(&orders).worker(worker).start().await?;

    let next = orders.read(|orders| orders.keys().next_back().map_or(1, |last| last + 1)).await?;
    let order = || PlaceOrder { order_id: next, customer: "Ada".to_string() };
    let position = running.executor().execute(order()).await?;
    println!("order {next} is placed: message {position}");
    match running.executor().execute(order()).await {
        Err(ExecuteError::Invalid(invalid)) => println!("a second one is refused: {invalid}"),
        other => println!("a second one: {other:?}"),
    }

    // A service would call `App::run` instead, which works until ctrl-c.
    running.idle().await?;
    let placed: Option<u64> = running.key("orders", "placed").await?;
    println!("{} orders were ever placed", placed.unwrap_or(0));
    running.shutdown().await?;
    Ok(())
}
