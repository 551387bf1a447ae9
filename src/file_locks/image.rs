//! Makes the indexes anew, which an image of the tables does not contain, and checks that no list in the image is circular.

use super::holders::holder_in;
use super::table::order_of_file;
use super::{File, LockTable, hash_owner_and_file};
use crate::store::NONE;

impl LockTable<'_> {
    /// Makes the indexes. Returns false if the image is invalid.
    pub(crate) fn complete_image(&mut self) -> bool {
        self.search.complete_image();
        let has_slots = self.trees.slots().is_valid()
            && self.file_slots.is_valid()
            && self.holder_slots.is_valid()
            && self.paths.is_valid();
        let is_valid = has_slots && self.waits.complete_image() && self.has_valid_links();
        if is_valid {
            self.index_files();
            self.index_holders();
        }
        is_valid
            && self.open_files.complete_image()
            && self.complete_delegations()
            && self.quotas.complete_image()
    }

    fn has_valid_links(&self) -> bool {
        let is_right = |file: &File| {
            let is_first = self.waits.is_first(file.first_deferred);
            is_first && self.paths.has_path(file.path)
        };
        let files = self
            .files
            .iter()
            .take(self.file_slots.high_water() as usize);
        let place_of = |slot: u32| self.waits.at(slot).place;
        let in_use = |slot: u32| {
            let file = self.file_at(slot);
            file.is_in_table() || slot == self.idle_file
        };
        (0..)
            .zip(files)
            .all(|(slot, file)| !in_use(slot) || is_right(file))
            && self.candidates.is_valid(place_of)
    }

    fn index_files(&mut self) {
        self.by_path.clear();
        let (files, paths) = (&self.files, &self.paths);
        for (slot, file) in (0..self.file_slots.high_water()).zip(files.iter()) {
            if file.is_in_table() || slot == self.idle_file {
                let key = (file.hash, file.path);
                self.by_path.insert(file.hash, slot, &|other| {
                    order_of_file(files, paths, other, key)
                });
            }
        }
    }

    fn index_holders(&mut self) {
        self.by_owner.clear();
        self.by_owner_and_file.clear();
        let holders = &self.holders;
        for (slot, holder) in (0..self.holder_slots.high_water()).zip(holders.iter()) {
            if holder.file == NONE {
                continue;
            }
            self.by_owner.insert(holder.owner.hash(), slot, &|other| {
                holder_in(holders, other).by_owner().cmp(&holder.by_owner())
            });
            let of = self.files.get(holder.file as usize);
            if of.is_some_and(|of| of.first_holder != slot) {
                let hash = hash_owner_and_file(holder.owner, holder.file);
                self.by_owner_and_file.insert(hash, slot, &|other| {
                    let other = holder_in(holders, other).by_owner_and_file();
                    other.cmp(&holder.by_owner_and_file())
                });
            }
        }
    }
}
