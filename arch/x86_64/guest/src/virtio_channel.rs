//! The channel to the host: a virtio console.
//!
//! The device fills receive buffers that the driver has offered and reads from transmit buffers.
//! Its interrupt matters only to a sleeping program.

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use bitflags::bitflags;
use libos_ipc::pal::mux::ByteChannel;
use libos_ipc::pal::{Deadline, Time};
use spin::Mutex;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::{Start, clock, interrupts};

/// The queues of a console's first port.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// The number of buffers in each direction, and their length.
const BUFFERS: usize = 8;
const BUFFER: usize = 2048;
/// The pages of the two queues: two each.
const PAGES: usize = 4;

type Buffers = [[u8; BUFFER]; BUFFERS];
type Queue = VirtQueue<QueueMemory, BUFFERS>;

/// Memory shared with the device.
#[repr(C, align(4096))]
struct DeviceShared<T>(UnsafeCell<T>);

// SAFETY: each page is allocated once (`QueueMemory::dma_alloc`), and the buffers are taken once
// (`open`).
unsafe impl<T> Sync for DeviceShared<T> {}

static PAGES_OF_QUEUES: DeviceShared<[[u8; PAGE_SIZE]; PAGES]> =
    DeviceShared(UnsafeCell::new([[0; PAGE_SIZE]; PAGES]));
static RECEIVE_BUFFERS: DeviceShared<Buffers> =
    DeviceShared(UnsafeCell::new([[0; BUFFER]; BUFFERS]));
static TRANSMIT_BUFFERS: DeviceShared<Buffers> =
    DeviceShared(UnsafeCell::new([[0; BUFFER]; BUFFERS]));
static PAGES_TAKEN: AtomicUsize = AtomicUsize::new(0);

struct QueueMemory;

// SAFETY: pages come from a zeroed static, each once; and memory is mapped at its physical address.
unsafe impl Hal for QueueMemory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = PAGES_TAKEN.fetch_add(pages, Ordering::Relaxed);
        assert!(first + pages <= PAGES, "the queues take more than was said");
        let page = PAGES_OF_QUEUES.0.get().cast::<u8>();
        // SAFETY: within the static, by the check above.
        let page = unsafe { NonNull::new_unchecked(page.add(first * PAGE_SIZE)) };
        (page.addr().get() as PhysAddr, page)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        #[allow(clippy::cast_possible_truncation)]
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The reason why the channel can't be opened.
#[derive(Clone, Copy, Debug)]
pub enum ChannelError {
    /// The machine has no virtio console.
    NoConsole,
    /// The device violates its standard.
    Device(virtio_drivers::Error),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::NoConsole => f.write_str(
                "the machine has no virtio console: start QEMU with -device virtio-serial-device \
                 and -device virtconsole",
            ),
            ChannelError::Device(error) => write!(f, "the virtio console: {error}"),
        }
    }
}

impl From<virtio_drivers::Error> for ChannelError {
    fn from(error: virtio_drivers::Error) -> Self {
        ChannelError::Device(error)
    }
}

/// The machine's channel to the host. It carries nothing before [`VirtioChannel::open`].
#[derive(Clone, Copy, Debug)]
pub struct VirtioChannel;

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

struct Device {
    transport: MmioTransport<'static>,
    receive: Queue,
    transmit: Queue,
    receive_buffers: &'static mut Buffers,
    transmit_buffers: &'static mut Buffers,
    /// A filled buffer: its number, the number of bytes that were read, and its length.
    received: Option<(usize, usize, usize)>,
    /// By the token in the queue: the number of a buffer that the device transmits, and the number of its bytes.
    transmitting: [Option<(usize, usize)>; BUFFERS],
    /// The last write has found no free buffer.
    is_blocked: bool,
}

// SAFETY: the device's pointers lead to statics and to the device, which any thread may use.
unsafe impl Send for Device {}

impl VirtioChannel {
    /// Finds the console among the devices on the command line (`virtio_mmio.device=…`, as QEMU's
    /// `microvm` writes it), and opens it. The program calls this once.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn open(self, start: Start) -> Result<(), ChannelError> {
        let consoles = start.values("virtio_mmio.device").filter_map(|device| {
            let (address, interrupt) = parse_device(device)?;
            let header = NonNull::new(address as *mut _)?;
            // SAFETY: the command line names a device at this address, and all memory below 4 GiB
            // is mapped.
            let transport = unsafe { MmioTransport::new(header, 512) }.ok()?;
            (transport.device_type() == DeviceType::Console).then_some((transport, interrupt))
        });
        let (transport, interrupt) = { consoles }.next().ok_or(ChannelError::NoConsole)?;
        *DEVICE.lock() = Some(Device::init(transport)?);
        interrupts::allow(interrupt);
        Ok(())
    }
}

/// Parses `512@0xfeb00e00:12` to the address and the interrupt.
fn parse_device(device: &str) -> Option<(usize, u8)> {
    let (_, numbers) = device.split_once('@')?;
    let (address, interrupt) = numbers.split_once(':')?;
    let address = usize::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
    Some((address, interrupt.parse().ok()?))
}

bitflags! {
    /// The features that are negotiated with the device.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const VERSION_1 = 1 << 32;
    }
}

impl Device {
    fn init(mut transport: MmioTransport<'static>) -> Result<Device, ChannelError> {
        transport.begin_init(Features::VERSION_1);
        let mut device = Device {
            receive: Queue::new(&mut transport, RECEIVE, false, false)?,
            transmit: Queue::new(&mut transport, TRANSMIT, false, false)?,
            transport,
            // SAFETY: they are taken once: a second console would have found no pages for its
            // queues just above.
            receive_buffers: unsafe { &mut *RECEIVE_BUFFERS.0.get() },
            // SAFETY: as above.
            transmit_buffers: unsafe { &mut *TRANSMIT_BUFFERS.0.get() },
            received: None,
            transmitting: [None; BUFFERS],
            is_blocked: false,
        };
        device.transmit.set_dev_notify(false);
        device.transport.finish_init();
        for number in 0..BUFFERS {
            device.offer(number)?;
        }
        Ok(device)
    }

    /// Offers a buffer to the device, for received bytes.
    fn offer(&mut self, number: usize) -> Result<(), ChannelError> {
        let buffer = self.receive_buffers[number].as_mut_slice();
        // SAFETY: the buffer is a static, and is not touched before it is popped.
        let token = unsafe { self.receive.add(&[], &mut [buffer]) }?;
        // The queue gives a buffer of one piece the token that was freed last, which is the
        // buffer's number.
        if usize::from(token) != number {
            return Err(virtio_drivers::Error::WrongToken.into());
        }
        if self.receive.should_notify() {
            self.transport.notify(RECEIVE);
        }
        Ok(())
    }

    /// Returns the next filled buffer: its number, the number of bytes that were read, and its
    /// length.
    fn filled(&mut self) -> Result<Option<(usize, usize, usize)>, ChannelError> {
        if self.received.is_some() {
            return Ok(self.received);
        }
        let Some(token) = self.receive.peek_used() else {
            return Ok(None);
        };
        let number = usize::from(token);
        let buffer = self
            .receive_buffers
            .get_mut(number)
            .ok_or(virtio_drivers::Error::WrongToken)?;
        // SAFETY: the same buffer as was added under that token.
        let length = unsafe { self.receive.pop_used(token, &[], &mut [buffer]) }?;
        self.received = Some((number, 0, (length as usize).min(BUFFER)));
        Ok(self.received)
    }

    fn read(&mut self, to: &mut [u8]) -> Result<usize, ChannelError> {
        let Some((number, done, length)) = self.filled()? else {
            return Ok(0);
        };
        let count = to.len().min(length - done);
        to[..count].copy_from_slice(&self.receive_buffers[number][done..done + count]);
        self.received = Some((number, done + count, length));
        if done + count == length {
            self.received = None;
            self.offer(number)?;
        }
        Ok(count)
    }

    /// Takes back the transmit buffers that were sent.
    fn reclaim(&mut self) -> Result<(), ChannelError> {
        while let Some(token) = self.transmit.peek_used() {
            let (number, length) = self
                .transmitting
                .get_mut(usize::from(token))
                .and_then(Option::take)
                .ok_or(virtio_drivers::Error::WrongToken)?;
            let sent = &self.transmit_buffers[number][..length];
            // SAFETY: the same bytes as were added under that token.
            unsafe { self.transmit.pop_used(token, &[sent], &mut []) }?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        self.reclaim()?;
        let is_free = |number: &usize| {
            let mut transmitting = self.transmitting.iter().flatten();
            transmitting.all(|(other, _)| other != number)
        };
        let number = (0..BUFFERS).find(is_free);
        if self.is_blocked != number.is_none() {
            // If no buffer is free, an interrupt is enabled for the next free one.
            self.is_blocked = number.is_none();
            self.transmit.set_dev_notify(self.is_blocked);
        }
        let Some(number) = number else {
            return Ok(0);
        };
        let count = bytes.len().min(BUFFER);
        let buffer = &mut self.transmit_buffers[number][..count];
        buffer.copy_from_slice(&bytes[..count]);
        // SAFETY: the buffer is a static, and is not touched before it is popped.
        let token = unsafe { self.transmit.add(&[buffer], &mut []) }?;
        self.transmitting[usize::from(token)] = Some((number, count));
        if self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
        Ok(count)
    }

    /// Returns true if bytes can be moved, so that the program must not sleep.
    fn has_work(&mut self) -> bool {
        // From now on the device raises an interrupt when it has bytes or a free buffer.
        self.transport.ack_interrupt();
        self.received.is_some()
            || self.receive.can_pop()
            || self.is_blocked && self.transmit.can_pop()
    }
}

/// Returns the result, or panics if the device violates its standard, because the program can't go on then.
fn expect_device<T>(outcome: Result<T, ChannelError>) -> T {
    match outcome {
        Ok(done) => done,
        Err(error) => panic!("{error}"),
    }
}

impl ByteChannel for VirtioChannel {
    fn read(&self, buffer: &mut [u8]) -> usize {
        let mut device = DEVICE.lock();
        device
            .as_mut()
            .map_or(0, |device| expect_device(device.read(buffer)))
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut device = DEVICE.lock();
        device
            .as_mut()
            .map_or(0, |device| expect_device(device.write(bytes)))
    }

    fn wait(&self, until: Deadline) {
        let has_work = DEVICE.lock().as_mut().is_some_and(Device::has_work);
        if !has_work && until.time().is_none_or(clock::set_alarm) {
            interrupts::sleep();
        }
    }

    fn now(&self) -> Time {
        clock::now()
    }
}
