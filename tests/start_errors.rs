//! Configurations and memory with which no node can be made.
#![allow(missing_docs)]

#[path = "common/limits.rs"]
mod limits;

use std::mem::MaybeUninit;
use std::time::Duration;

use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::{Capacities, Config, Errno, Heirs, Identity, Node, Rule, StartError, Vmid};

use limits::LIMITS;

type Net = Network<2, 4, 600>;
type LoopbackNode<'n> = Node<'n, Loopback<'n, 2, 4, 600>>;

fn config(change: impl Fn(&mut Capacities)) -> Config {
    let mut config = Config::DEFAULT;
    change(&mut config.capacities);
    config
}

fn start(config: Config, bytes: usize) -> Option<StartError> {
    let net = Net::new();
    let mut memory = vec![MaybeUninit::uninit(); bytes];
    let pal = net.join(Vmid::LEADER).unwrap();
    Node::new(pal, Identity::LEADER, config, &mut memory).err()
}

#[test]
fn a_limit_that_no_memory_could_hold_is_named() {
    for (field, place) in LIMITS {
        for value in [usize::MAX, usize::MAX / 2, (1 << 30) + 1] {
            let config = config(|limits| *place(limits) = value);
            let error = config.check().unwrap_err();
            assert_eq!(error.field, field);
            assert!(matches!(error.rule, Rule::AtMost { given, .. } if given == value));
            // The size can be asked for all the same.
            let size = LoopbackNode::memory(&Identity::LEADER, &config).total();
            assert!(size > 0);
            assert_eq!(start(config, 1 << 20), Some(StartError::Config(error)));
        }
        // Limits that the rules allow may still need more memory than there is.
        let config = config(|limits| *place(limits) = 1 << 28);
        if config.check().is_ok() {
            let needed = LoopbackNode::memory(&Identity::LEADER, &config).total();
            let given = 1 << 20;
            assert_eq!(
                start(config, given),
                Some(StartError::TooLittleMemory { needed, given }),
                "{field}"
            );
        }
    }
}

#[test]
fn half_a_send_queue_holds_the_longest_frame_and_the_reserve() {
    let queue = |bytes| {
        config(|limits| {
            limits.frame_length = 4352;
            limits.send_queue = bytes;
        })
    };
    assert_eq!(queue(2 * (4352 + 128)).check(), Ok(()));
    let error = queue(2 * 4352).check().unwrap_err();
    assert_eq!(error.field, "send_queue");
    assert_eq!(
        error.to_string(),
        "Capacities::send_queue is 8704, and must be at least 8960: each half holds the longest frame (frame_length) \
         and a reserve of 128 bytes for answers"
    );
}

#[test]
fn data_that_no_frame_holds_is_named_if_there_are_shared_values() {
    let data = |handles| {
        config(|limits| {
            limits.sync_data = limits.frame_length - 40;
            limits.sync_handles = handles;
            limits.leases.handles = handles;
        })
    };
    assert_eq!(data(1).check().unwrap_err().field, "sync_data");
    assert_eq!(data(0).check(), Ok(()));
    assert_eq!(
        config(|limits| limits.sync_data = limits.frame_length - 41).check(),
        Ok(())
    );
}

#[test]
fn too_little_memory_says_how_much_is_needed_and_was_given() {
    let needed = LoopbackNode::memory(&Identity::LEADER, &Config::DEFAULT).total();
    assert_eq!(start(Config::DEFAULT, needed), None);
    let error = start(Config::DEFAULT, needed - 1).unwrap();
    assert_eq!(error.errno(), Errno::ENOMEM);
    let text = error.to_string();
    assert!(
        text.contains(&needed.to_string()) && text.contains(&(needed - 1).to_string()),
        "{text}"
    );
}

#[test]
fn the_limits_of_the_crate_contradict_nothing() {
    assert_eq!(Config::DEFAULT.check(), Ok(()));
    assert_eq!(config(|limits| *limits = Capacities::LARGE).check(), Ok(()));
}

#[test]
fn heirs_that_contradict_the_configuration_are_refused_with_the_field() {
    let vmid = |number| Vmid::new(number);
    let good = Config {
        heirs: Heirs::Listed([vmid(3), None, vmid(2), None]),
        stall_limit: Duration::from_millis(10),
        ..Config::DEFAULT
    };
    assert_eq!(good.check(), Ok(()));
    let wrong = [
        (
            "heirs",
            Config {
                heirs: Heirs::Listed([None; Heirs::MOST]),
                ..good
            },
        ),
        (
            "heirs",
            Config {
                heirs: Heirs::Listed([vmid(2), vmid(3), None, vmid(2)]),
                ..good
            },
        ),
        (
            "heir_patience",
            Config {
                heir_patience: Duration::ZERO,
                ..good
            },
        ),
        (
            "succession_limit",
            Config {
                succession_limit: Duration::ZERO,
                ..good
            },
        ),
        (
            "stall_limit",
            Config {
                stall_limit: Duration::from_millis(9),
                ..good
            },
        ),
    ];
    for (field, config) in wrong {
        let error = config.check().unwrap_err();
        assert_eq!(error.field, field);
        assert!(matches!(error.rule, Rule::Contradiction { .. }));
        let text = error.to_string();
        assert!(text.starts_with(&format!("Config::{field}: ")), "{text}");
        assert_eq!(start(config, 1 << 23), Some(StartError::Config(error)));
        // Without heirs these fields have no meaning.
        let unused = Config {
            heirs: Heirs::None,
            ..config
        };
        assert_eq!(unused.check(), Ok(()));
    }
}

#[test]
fn only_named_members_may_lead() {
    let [one, two] = [1, 2].map(|number| Vmid::new(number).unwrap());
    assert!(!Heirs::None.includes(two) && !Heirs::None.is_any());
    assert!(Heirs::Any.includes(two) && Heirs::Any.is_any());
    let listed = Heirs::Listed([None, Some(two), None, None]);
    assert!(listed.includes(two) && !listed.includes(one) && listed.is_any());
}

#[test]
fn a_limit_of_silence_that_is_too_short_or_too_long_is_named() {
    for (limit, is_allowed) in [
        (Duration::ZERO, false),
        (Duration::from_micros(999), false),
        (Duration::from_millis(1), true),
        (Duration::from_mins(1), true),
        (Duration::from_millis(60_001), false),
        (Duration::MAX, false),
    ] {
        let config = Config {
            silence_limit: Some(limit),
            ..Config::DEFAULT
        };
        let checked = config.check();
        assert_eq!(checked.is_ok(), is_allowed, "{limit:?}: {checked:?}");
        if let Err(error) = checked {
            assert_eq!(error.field, "silence_limit");
            assert!(error.to_string().contains("at most a minute"), "{error}");
        }
    }
}
