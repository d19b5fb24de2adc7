//! A client and a host outside, and between them a namespace for an instance.

use super::net::Namespace;

/// The router's interface `mr-lan` leads to the client (10.0.0.2), `mr-wan` to the host outside (198.51.100.2). The client's way out
/// is 10.0.0.1.
pub struct Hosts {
    pub client: Namespace,
    pub outside: Namespace,
    pub router: Namespace,
}

impl Hosts {
    /// Joined by veth pairs with so many queues.
    pub fn new(queues: u32) -> Self {
        let (client, outside, router) = (Namespace::new(), Namespace::new(), Namespace::new());
        router.connect(&client, "mr-lan", "10.0.0.2/24", queues);
        router.connect(&outside, "mr-wan", "198.51.100.2/24", queues);
        client.run("ip route add default via 10.0.0.1");
        Self { client, outside, router }
    }
}
