pub mod query; pub mod route; pub mod command; pub mod idempotency;
