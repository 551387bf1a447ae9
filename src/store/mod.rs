//! Memory: the arena of a node, locks, and the containers of a node's tables.
//!
//! This module knows nothing of the protocol. `unsafe` is allowed only here, in the platform code
//! and in the C interface.

mod arena;
mod buffer;
mod byte_ring;
mod copy;
mod digest;
mod hash_index;
mod image;
mod interval_map;
mod lock;
#[allow(
    dead_code,
    reason = "a debug build without the C interface sets no such value"
)]
mod once;
mod portion;
mod quota;
mod rank;
mod slab;
mod sorted_map;
mod steps;
mod transmit_queue;

pub use arena::{Arena, Memory};
pub(crate) use arena::{Table, bytes_for, memory_sum, total};
pub(crate) use buffer::Buffer;
pub(crate) use byte_ring::ByteRing;
pub(crate) use copy::{close_gap, copy, make_gap, move_to_front, sort};
pub(crate) use digest::{Digest, Digested, HAS_REPLICAS, Sum};
pub(crate) use hash_index::HashIndex;
pub(crate) use image::{
    Image, ImageEntry, ImageReader, ImageWriter, Loader, Saver, codes, entry, field_size, image,
    list_length, seal, stored_checksum,
};
pub use image::{ImageCursor, MalformedImage, SMALLEST_SLICE};
pub(crate) use interval_map::{Interval, IntervalMap, MAX_INTERVAL, OwnerCursor};
pub(crate) use lock::{Contended, SpinLock, SpinLockGuard, acquire};
pub(crate) use once::Once;
pub(crate) use portion::Portion;
pub(crate) use quota::{Payer, Quotas, payer_or_leader};
pub(crate) use rank::{Rank, assert_none_held};
pub(crate) use slab::{NONE, SlotAllocator, hash64};
pub(crate) use sorted_map::SortedMap;
pub(crate) use steps::Steps;
pub(crate) use transmit_queue::TransmitQueue;
