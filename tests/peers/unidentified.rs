//! Streams whose VMIDs have not come, more than there is room for.

use std::mem::MaybeUninit;
use std::time::Duration;

use libos_ipc::pal::{Pal, Stream, StreamError};
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::{Capacities, Config, Identity, Node, Vmid};

type Net = Network<3, 16, 64>;

fn is_closed(stream: &impl Stream) -> bool {
    stream.write(&[&[0]]) == Err(StreamError::Closed)
}

#[test]
fn process_that_opens_many_streams_loses_its_own_and_no_other_process_does() {
    let world = Net::new();
    let join = |number| world.join(Vmid::new(number).unwrap()).unwrap();
    let (leader, member, flooder) = (join(1), join(2), join(3));
    let config = Config {
        capacities: Capacities {
            unidentified: 3,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    };
    let bytes = Node::<Loopback<'_, 3, 16, 64>>::memory(&Identity::LEADER, &config).total();
    let mut memory = vec![MaybeUninit::uninit(); bytes];
    let node = Node::new(leader, Identity::LEADER, config, &mut memory).unwrap();
    // Its VMID comes after all the others.
    let honest = member.connect(Vmid::LEADER).unwrap();
    node.poll_once();
    let mut flood = Vec::new();
    for _ in 0..8 {
        world.advance(Duration::from_micros(1));
        flood.push(flooder.connect(Vmid::LEADER).unwrap());
        node.poll_once();
    }
    let closed: Vec<bool> = flood.iter().map(is_closed).collect();
    let expected = [true, true, true, true, true, true, false, false];
    assert_eq!(closed, expected, "the oldest ones of the flood are closed");
    assert!(!is_closed(&honest));
}
