//! A digest of the tables of file locks.

use core::hash::Hash;

use super::LockTable;
use crate::store::Digest;

impl LockTable<'_> {
    /// Takes in all that later answers depend on. The bytes of a file's path are left out: their hash
    /// stands for them.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        self.trees.digest(digest);
        self.file_slots.digest(digest);
        self.idle_file.hash(digest);
        digest.add_all(
            self.files
                .iter()
                .take(self.file_slots.high_water() as usize),
        );
        self.holder_slots.digest(digest);
        let holders = self.holder_slots.high_water() as usize;
        digest.add_all(self.holders.iter().take(holders));
        self.last_holder.hash(digest);
        self.waits.digest(digest);
        self.is_serving.hash(digest);
        self.candidates.rounds().hash(digest);
        self.open_files.digest(digest);
        self.delegations.digest(digest);
        self.quotas.digest(digest);
    }
}
