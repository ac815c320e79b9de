//! The operations of streams, and how they run.

use std::ptr;

use crate::blas::Product;
use crate::blocks::{Kind, Position, Span};
use crate::config::Config;
use crate::fault;
use crate::kernel::Launch;
use crate::state::State;
use crate::status::Status;

/// An operation in a stream.
#[derive(Debug)]
pub(crate) enum Work {
    /// Moves bytes.
    Copy(Copy),
    /// Sets bytes.
    Fill(Fill),
    /// Runs a kernel.
    Launch(Box<Launch>),
    /// Multiplies matrices.
    Product(Box<Product>),
    /// Records an event.
    Record { event: usize },
    /// Waits for another stream's work up to a position.
    Wait { stream: usize, position: u64 },
}

/// A copy of `bytes` bytes.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) bytes: usize,
}

/// Fills `span` with one byte.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) span: Span,
    pub(crate) value: u8,
}

/// One end of a copy.
#[derive(Debug)]
pub(crate) enum End {
    /// Device or pinned memory.
    Span(Span),
    /// Host memory that the caller keeps valid until the copy has run, because the call waits for
    /// it.
    Host(usize),
    /// Bytes that were copied at the call, as a driver does with host memory that is not pinned.
    Held(Vec<u8>),
}

impl State {
    /// Runs the next operation of a stream.
    ///
    /// # Errors
    ///
    /// Errors that end a context: `ILLEGAL_ADDRESS` for freed memory, and the status of a failed
    /// kernel.
    pub(crate) fn perform(&mut self, work: Work, position: Position) -> Result<(), Status> {
        match work {
            Work::Copy(copy) => self.copy(&copy, position),
            Work::Fill(Fill { span, value }) => {
                let to = self.address(&span, "memset", position)?;
                // SAFETY: the span is in a live allocation; the lock on the state keeps it alive
                // and copies apart.
                unsafe { ptr::write_bytes(to as *mut u8, value, span.bytes) };
                Ok(())
            }
            Work::Launch(launch) => {
                let name = &launch.function.name;
                if let Some(wrong) = &launch.wrong {
                    self.misused(format!("kernel `{name}` runs with {wrong}"));
                    return Err(Status::ILLEGAL_ADDRESS);
                }
                for span in &launch.spans {
                    self.address(span, &format!("kernel `{name}`"), position)?;
                }
                self.lose_at_kernel()?;
                self.books.kernels += 1;
                let Some(space) = &self.space else { return Err(Status::ILLEGAL_ADDRESS) };
                let running = fault::running(name);
                let ran = launch.run(space, self.config.threads);
                drop(running);
                ran.complaints.into_iter().for_each(|m| self.misused(format!("kernel `{name}`: {m}")));
                ran.status.map_or(Ok(()), Err)
            }
            Work::Product(product) => {
                let operands = product.operands().map(|span| self.address(span, "product", position));
                let [a, b, c, d] = operands;
                let addresses = [a?, b?, c?, d?];
                self.lose_at_kernel()?;
                self.books.products += 1;
                // SAFETY: the operands' spans are in live allocations, and the lock keeps others
                // away from them.
                unsafe { product.run(addresses) };
                Ok(())
            }
            Work::Record { .. } | Work::Wait { .. } => Ok(()),
        }
    }

    fn lose_at_kernel(&mut self) -> Result<(), Status> {
        if Config::fails(&mut self.config.lose_at_kernel) {
            return Err(Status::of(self.config.lose_code).unwrap_or(Status::UNKNOWN));
        }
        Ok(())
    }

    /// The address of a span, if its allocation is still live.
    fn address(&mut self, span: &Span, what: &str, position: Position) -> Result<u64, Status> {
        match self.blocks.get(span.block) {
            Some(block) if block.kind == Kind::Pinned => Ok(span.address),
            Some(_) => self.space.as_ref().map(|s| s.real(span.address)).ok_or(Status::ILLEGAL_ADDRESS),
            None => {
                let Position { lane, at } = position;
                let (number, bytes) = (span.block, span.bytes);
                let verb = "was freed before that ran: use after free";
                Err(self.refused(
                    Status::ILLEGAL_ADDRESS,
                    format!("{what} (stream {lane}, operation {at}) touches {bytes} bytes of allocation {number}, which {verb}"),
                ))
            }
        }
    }

    fn copy(&mut self, copy: &Copy, position: Position) -> Result<(), Status> {
        let Copy { from, to, bytes } = copy;
        let source = self.end(from, position)?;
        let target = self.end(to, position)?;
        // SAFETY: spans are in live allocations, held bytes are ours, and other host memory
        // belongs to the caller, who waits in this very call. Both ends have `bytes` bytes; `copy`
        // allows them to overlap.
        unsafe { ptr::copy(source as *const u8, target as *mut u8, *bytes) };
        let on_device = |end: &End| match end {
            End::Span(span) => self.blocks.get(span.block).is_some_and(|b| b.kind == Kind::Device),
            End::Host(_) | End::Held(_) => false,
        };
        match (on_device(from), on_device(to)) {
            (true, true) => self.books.copies_within += 1,
            (true, false) => {
                self.books.copies_out += 1;
                self.books.bytes_out += *bytes as u64;
            }
            (false, _) => {
                self.books.copies_in += 1;
                self.books.bytes_in += *bytes as u64;
            }
        }
        Ok(())
    }

    fn end(&mut self, end: &End, position: Position) -> Result<u64, Status> {
        match end {
            End::Span(span) => self.address(span, "copy", position),
            End::Host(address) => Ok(*address as u64),
            End::Held(bytes) => Ok(bytes.as_ptr() as u64),
        }
    }
}
