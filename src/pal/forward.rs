//! The methods that a wrapper forwards to the platform below.

/// Writes the methods of a [`Pal`](crate::pal::Pal) that a wrapper forwards, inside its `impl` of that
/// trait.
///
/// The first name is the field with the platform that is wrapped. Methods that take a stream also need
/// the field of the wrapper's stream that has the stream which is wrapped, or `stream` alone where the two
/// are of one type. `stream.itself` forwards the watches to methods of the same names and arguments that the
/// wrapper's stream has. [`contended`](crate::pal::Pal::contended) has no platform to be called on, so the name
/// before it is the type of the platform.
///
/// ```
/// use libos_ipc::pal::{AcceptError, ConnectError, OutOfResources, Pal};
/// use libos_ipc::{Vmid, forward_pal};
///
/// /// A platform on which no process can be connected to.
/// struct Unreachable<P>(P);
///
/// impl<P: Pal> Pal for Unreachable<P> {
///     type Stream = P::Stream;
///     type Event = P::Event;
///
///     const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;
///
///     forward_pal!(P: contended);
///     forward_pal!(0: is_secure, requires_secure, event, watch_listener, wait, wake, wait_event, now);
///     forward_pal!(0, stream: watch, rewatch, unwatch, wait_readable);
///
///     fn connect(&self, _: Vmid) -> Result<P::Stream, ConnectError> {
///         Err(ConnectError::NotListening)
///     }
///
///     fn accept(&self) -> Result<P::Stream, AcceptError> {
///         self.0.accept()
///     }
/// }
/// ```
#[macro_export]
macro_rules! forward_pal {
    ($inner:tt: $($method:ident),+) => {
        $($crate::forward_pal!(@$method $inner);)+
    };
    (stream.itself: $($method:ident),+) => {
        $($crate::forward_pal!(@stream $method);)+
    };
    ($inner:tt, stream: $($method:ident),+) => {
        $($crate::forward_pal!(@$method $inner);)+
    };
    ($inner:tt, stream.$field:tt: $($method:ident),+) => {
        $($crate::forward_pal!(@$method $inner $field);)+
    };
    (@contended $inner:tt) => {
        fn contended(attempts: u32) {
            <$inner as $crate::pal::Pal>::contended(attempts);
        }
    };
    (@is_secure $inner:tt) => {
        fn is_secure(&self) -> bool {
            self.$inner.is_secure()
        }
    };
    (@requires_secure $inner:tt) => {
        fn requires_secure(&self) -> bool {
            self.$inner.requires_secure()
        }
    };
    (@end $inner:tt) => {
        fn end(&self, peer: $crate::Vmid) -> bool {
            self.$inner.end(peer)
        }
    };
    (@clean_up_after $inner:tt) => {
        fn clean_up_after(&self, peer: $crate::Vmid) {
            self.$inner.clean_up_after(peer);
        }
    };
    (@event $inner:tt) => {
        fn event(&self) -> ::core::result::Result<Self::Event, $crate::pal::OutOfResources> {
            self.$inner.event()
        }
    };
    (@watch_listener $inner:tt) => {
        fn watch_listener(&self, on: bool) {
            self.$inner.watch_listener(on);
        }
    };
    (@stop_listening $inner:tt) => {
        fn stop_listening(&self) {
            self.$inner.stop_listening();
        }
    };
    (@wait $inner:tt) => {
        fn wait(&self, ready: &mut $crate::pal::ReadyList, until: $crate::pal::Deadline) {
            self.$inner.wait(ready, until);
        }
    };
    (@wake $inner:tt) => {
        fn wake(&self) {
            self.$inner.wake();
        }
    };
    (@wait_event $inner:tt) => {
        fn wait_event(&self, event: &Self::Event, until: $crate::pal::Deadline) {
            self.$inner.wait_event(event, until);
        }
    };
    (@now $inner:tt) => {
        fn now(&self) -> $crate::pal::Time {
            self.$inner.now()
        }
    };
    (@watch $inner:tt $($field:tt)?) => {
        fn watch(
            &self,
            stream: &Self::Stream,
            token: $crate::pal::Token,
            interest: $crate::pal::Interest,
        ) -> ::core::result::Result<(), $crate::pal::OutOfResources> {
            self.$inner.watch(&(*stream)$(.$field)?, token, interest)
        }
    };
    (@rewatch $inner:tt $($field:tt)?) => {
        fn rewatch(
            &self,
            stream: &Self::Stream,
            token: $crate::pal::Token,
            interest: $crate::pal::Interest,
        ) {
            self.$inner.rewatch(&(*stream)$(.$field)?, token, interest);
        }
    };
    (@unwatch $inner:tt $($field:tt)?) => {
        fn unwatch(&self, stream: &Self::Stream) {
            self.$inner.unwatch(&(*stream)$(.$field)?);
        }
    };
    (@wait_readable $inner:tt $($field:tt)?) => {
        fn wait_readable(
            &self,
            stream: &Self::Stream,
            event: &Self::Event,
            until: $crate::pal::Deadline,
        ) -> bool {
            self.$inner.wait_readable(&(*stream)$(.$field)?, event, until)
        }
    };
    (@stream watch) => {
        fn watch(
            &self,
            stream: &Self::Stream,
            token: $crate::pal::Token,
            interest: $crate::pal::Interest,
        ) -> ::core::result::Result<(), $crate::pal::OutOfResources> {
            stream.watch(token, interest)
        }
    };
    (@stream rewatch) => {
        fn rewatch(
            &self,
            stream: &Self::Stream,
            token: $crate::pal::Token,
            interest: $crate::pal::Interest,
        ) {
            stream.rewatch(token, interest);
        }
    };
    (@stream unwatch) => {
        fn unwatch(&self, stream: &Self::Stream) {
            stream.unwatch();
        }
    };
}
