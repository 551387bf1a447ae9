//! A member's reference to an open file.

use crate::Vmid;
use core::hash::Hash;

use crate::store::{ImageEntry, ImageReader, ImageWriter, MalformedImage, Payer, codes, entry};

/// The state of a member's reference to an open file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum HoldState {
    /// The member uses the open file.
    Held,
    /// The member has closed the open file while one of its requests still waits for a lock of it.
    /// Like a system call in progress, the request keeps the open file until it ends.
    Closing,
    /// The member has inherited the open file from `by`, and has not used it yet.
    Inherited {
        by: Vmid,
        /// Whether the inheriting process has joined.
        has_joined: bool,
    },
    /// `by` sends the open file to the member; it is in transit.
    Sent { by: Vmid },
}

/// The state of the notice that tells a receiver of a transferred open file, so that the receiver
/// reports its close.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum NoticeState {
    /// The receiver can't be sent a notice yet.
    Withheld,
    /// The notice is to be sent.
    Pending,
    Sent,
    /// The receiver has confirmed the notice, or needs none.
    Confirmed,
}

#[derive(Clone, Copy, Hash)]
pub(super) struct Reference {
    pub(super) open_file: u64,
    /// `None` for a free slot.
    pub(super) vmid: Option<Vmid>,
    pub(super) state: HoldState,
    pub(super) notice: NoticeState,
    /// The number of the member's requests that wait for a lock of the open file.
    pub(super) requests: u32,
    /// In the first reference to an open file that is in transit to a member: the number of these.
    pub(super) in_transit: u32,
    /// Whether the slot is in the list that [`OpenFileTable::take_closed`] works through.
    pub(super) is_listed: bool,
    pub(super) payer: Payer,
}

impl ImageEntry for HoldState {
    const SIZE: usize = 6;

    fn save(&self, to: &mut ImageWriter<'_>) {
        match self {
            HoldState::Held => 0_u8.save(to),
            HoldState::Closing => 1_u8.save(to),
            HoldState::Inherited { by, has_joined } => (2_u8, (*by, *has_joined)).save(to),
            HoldState::Sent { by } => (3_u8, *by).save(to),
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Ok(match u8::load(from)? {
            0 => HoldState::Held,
            1 => HoldState::Closing,
            2 => HoldState::Inherited {
                by: ImageEntry::load(from)?,
                has_joined: ImageEntry::load(from)?,
            },
            3 => HoldState::Sent {
                by: ImageEntry::load(from)?,
            },
            _ => return Err(MalformedImage),
        })
    }
}

codes!(NoticeState {
    Withheld = 0,
    Pending = 1,
    Sent = 2,
    Confirmed = 3
});

entry!(Reference {
    open_file,
    vmid,
    state,
    notice,
    requests,
    in_transit,
    is_listed,
    payer,
});

pub(super) const FREE: Reference = Reference {
    open_file: 0,
    vmid: None,
    state: HoldState::Held,
    notice: NoticeState::Confirmed,
    requests: 0,
    in_transit: 0,
    is_listed: false,
    payer: Payer::NOBODY,
};

impl Reference {
    pub(super) fn key(&self, slot: u32) -> ReferenceKey {
        ReferenceKey {
            open_file: self.open_file,
            vmid: self.vmid.map_or(0, Vmid::get),
            by: match self.state {
                HoldState::Sent { by } => by.get(),
                _ => 0,
            },
            slot,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state == HoldState::Closing
    }

    /// Returns true if the open file is in transit to the member.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.state, HoldState::Sent { .. })
    }

    pub(super) fn is_unjoined(&self) -> bool {
        matches!(
            self.state,
            HoldState::Inherited {
                has_joined: false,
                ..
            }
        )
    }
}

/// The key of a reference in the index. References that are in transit are behind the one that the
/// member has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReferenceKey {
    pub(super) open_file: u64,
    pub(super) vmid: u32,
    /// The giver of a reference that is in transit; 0 for the one that the member has.
    pub(super) by: u32,
    pub(super) slot: u32,
}
