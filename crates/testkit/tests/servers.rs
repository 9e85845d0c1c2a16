//! Every server starts, is killed, starts again on the same port, and is gone in the end.

use std::net::TcpStream;

use outboard_testkit::{Nats, RabbitMq, Redis};

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

macro_rules! lives_and_dies {
    ($name:ident, $server:ty) => {
        #[test]
        fn $name() {
            let mut server = <$server>::start().unwrap();
            let port = server.port();
            assert!(listens(port));
            server.kill();
            assert!(!listens(port));
            server.restart().unwrap();
            assert!(listens(port));
            drop(server);
            assert!(!listens(port));
        }
    };
}

lives_and_dies!(rabbitmq_lives_and_dies, RabbitMq);
lives_and_dies!(redis_lives_and_dies, Redis);
lives_and_dies!(nats_lives_and_dies, Nats);
