//! The bank's file: a table of accounts, and after it an entry for each teller's transfer.
//!
//! A teller may be killed between any two writes. So before it changes an account it marks both,
//! writes their new balances to its own entry, and commits that with one write; then it writes the
//! new balances, which removes the marks. A teller that locks an account with a mark knows that the
//! marking teller is dead, and finishes the transfer if it was committed, or undoes it if it was
//! not. Every write is one system call, which a kill does not divide.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The length of an account in bytes: its balance, the teller at it, the number of the transfer
/// that marks it.
pub(crate) const ACCOUNT_LENGTH: u64 = ACCOUNT_BYTES as u64;
const ACCOUNT_BYTES: usize = 24;
/// The length of a teller's entry in bytes.
const ENTRY_LENGTH: u64 = ENTRY_BYTES as u64;
const ENTRY_BYTES: usize = 48;
/// The balance of each account at first.
pub(crate) const INITIAL_BALANCE: i64 = 1_000;

/// The bank's file, opened.
pub(crate) struct Bank {
    file: File,
    /// The number of accounts.
    accounts: u64,
}

/// The contents of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) balance: i64,
    /// The number of the teller that locked the account last.
    pub(crate) teller: u64,
    /// That teller's unfinished transfer; 0 for none.
    pub(crate) transfer: u64,
}

/// The transfer that a teller is about to make.
#[derive(Clone, Copy)]
struct Entry {
    /// The number of the transfer.
    transfer: u64,
    /// 1 if the transfer is committed, or else 0.
    committed: u64,
    /// The account that is debited, and the one that is credited.
    accounts: [u64; 2],
    /// Their new balances.
    balances: [i64; 2],
}

impl Bank {
    /// Makes a new bank with that many accounts of [`INITIAL_BALANCE`] each.
    pub(crate) fn create(path: &Path, accounts: u64) -> Result<Bank> {
        let file = File::create_new(path).context("the bank's file")?;
        let bank = Bank { file, accounts };
        let contents = Account {
            balance: INITIAL_BALANCE,
            teller: 0,
            transfer: 0,
        };
        for account in 0..accounts {
            bank.write(account, contents)?;
        }
        Bank::open(path, accounts)
    }

    pub(crate) fn open(path: &Path, accounts: u64) -> Result<Bank> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path);
        let file = file.context("the bank's file")?;
        Ok(Bank { file, accounts })
    }

    /// Returns the offset of a teller's entry in the file.
    fn entry_offset(&self, teller: u64) -> u64 {
        self.accounts * ACCOUNT_LENGTH + teller * ENTRY_LENGTH
    }

    pub(crate) fn read(&self, account: u64) -> Result<Account> {
        let mut bytes = [0; ACCOUNT_BYTES];
        self.file
            .read_exact_at(&mut bytes, account * ACCOUNT_LENGTH)?;
        let [balance, teller, transfer] = numbers(&bytes);
        Ok(Account {
            balance: balance.cast_signed(),
            teller,
            transfer,
        })
    }

    fn write(&self, account: u64, contents: Account) -> Result<()> {
        let Account {
            balance,
            teller,
            transfer,
        } = contents;
        let bytes = bytes::<3, ACCOUNT_BYTES>([balance.cast_unsigned(), teller, transfer]);
        Ok(self.file.write_all_at(&bytes, account * ACCOUNT_LENGTH)?)
    }

    fn read_entry(&self, teller: u64) -> Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        self.file
            .read_exact_at(&mut bytes, self.entry_offset(teller))?;
        let [transfer, committed, from, to, from_balance, to_balance] = numbers(&bytes);
        Ok(Entry {
            transfer,
            committed,
            accounts: [from, to],
            balances: [from_balance.cast_signed(), to_balance.cast_signed()],
        })
    }

    fn write_entry(&self, teller: u64, entry: Entry) -> Result<()> {
        let [from, to] = entry.accounts;
        let [from_balance, to_balance] = entry.balances.map(i64::cast_unsigned);
        let numbers = [
            entry.transfer,
            entry.committed,
            from,
            to,
            from_balance,
            to_balance,
        ];
        let bytes = bytes::<6, ENTRY_BYTES>(numbers);
        Ok(self.file.write_all_at(&bytes, self.entry_offset(teller))?)
    }

    /// Returns the true balance of an account: with the transfers that a dead teller has committed,
    /// without those that it has not. The caller holds a lock.
    pub(crate) fn balance(&self, account: u64) -> Result<i64> {
        let found = self.read(account)?;
        if found.transfer == 0 {
            return Ok(found.balance);
        }
        let entry = self.read_entry(found.teller)?;
        let is_committed = entry.transfer == found.transfer && entry.committed != 0;
        let new_balance = entry
            .accounts
            .iter()
            .zip(entry.balances)
            .find(|(changed, _)| is_committed && **changed == account);
        Ok(new_balance.map_or(found.balance, |(_, balance)| balance))
    }

    /// Takes over a locked account for a teller: finishes or undoes the transfer of a dead teller.
    pub(crate) fn take_over(&self, account: u64, teller: u64) -> Result<()> {
        let balance = self.balance(account)?;
        self.write(
            account,
            Account {
                balance,
                teller,
                transfer: 0,
            },
        )
    }

    /// Moves money between two accounts, both locked and taken over by the teller. Returns false if
    /// the first account has too little.
    pub(crate) fn transfer(
        &self,
        teller: u64,
        transfer: u64,
        accounts: [u64; 2],
        amount: i64,
    ) -> Result<bool> {
        let [from, to] = accounts;
        let (debited, credited) = (self.read(from)?, self.read(to)?);
        if debited.balance < amount {
            return Ok(false);
        }
        let mut entry = Entry {
            transfer,
            committed: 0,
            accounts,
            balances: [debited.balance - amount, credited.balance + amount],
        };
        self.write_entry(teller, entry)?;
        self.write(
            from,
            Account {
                transfer,
                ..debited
            },
        )?;
        self.write(
            to,
            Account {
                transfer,
                ..credited
            },
        )?;
        entry.committed = 1;
        self.write_entry(teller, entry)?;
        for (account, balance) in accounts.into_iter().zip(entry.balances) {
            let found = self.read(account)?;
            ensure!(
                (found.teller, found.transfer) == (teller, transfer),
                "teller {teller} found {found:?} in its account {account}: another teller has written to it"
            );
            let unmarked = Account {
                balance,
                teller,
                transfer: 0,
            };
            self.write(account, unmarked)?;
        }
        Ok(true)
    }

    /// Returns the sum of all accounts. The caller has locked the whole table.
    pub(crate) fn sum(&self) -> Result<i64> {
        (0..self.accounts)
            .map(|account| self.balance(account))
            .sum()
    }
}

/// Decodes little-endian numbers of 64 bits.
fn numbers<const COUNT: usize>(bytes: &[u8]) -> [u64; COUNT] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

/// Encodes numbers of 64 bits as little-endian bytes.
fn bytes<const COUNT: usize, const LENGTH: usize>(numbers: [u64; COUNT]) -> [u8; LENGTH] {
    std::array::from_fn(|at| numbers[at / 8].to_le_bytes()[at % 8])
}
