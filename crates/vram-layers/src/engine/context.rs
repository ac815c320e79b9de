//! What all parts of an engine use and none of them changes.

use std::sync::Arc;
use std::time::Instant;

use vram_device::{Budget, Device, Memory};
use vram_types::WeightSource;

use super::meter::Meter;
use super::options::EngineOptions;
use crate::observe::event::{Event, Observer, Span};
use crate::plan::costs::Link;
use crate::spec::Layer;
use crate::sync::Condvar;
use crate::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Context {
    pub(super) source: Arc<dyn WeightSource>,
    pub(super) device: Arc<dyn Device>,
    pub(super) layers: Vec<Layer>,
    /// Largest single read in bytes, a multiple of the source's alignment.
    pub(super) piece: u64,
    /// Whether the source gives windows of a memory map.
    pub(super) mapped: bool,
    pub(super) budget: Budget,
    pub(super) host_budget: Budget,
    /// Readers wait here for something to read or for room in the ring.
    pub(super) work: Condvar,
    /// The computing thread waits here for weights.
    pub(super) ready: Condvar,
    observer: Option<Arc<dyn Observer>>,
    disk: Meter,
    bus: Meter,
    /// Passes are being measured, so each copy is waited for.
    calibrating: AtomicBool,
}

impl Context {
    pub(super) fn new(
        source: Arc<dyn WeightSource>,
        device: Arc<dyn Device>,
        layers: Vec<Layer>,
        (piece, mapped): (u64, bool),
        options: &EngineOptions,
    ) -> Context {
        Context {
            source,
            device,
            layers,
            piece,
            mapped,
            budget: options.budget.clone(),
            host_budget: options.host_budget.clone(),
            work: Condvar::new(),
            ready: Condvar::new(),
            observer: options.observer.clone(),
            disk: Meter::default(),
            bus: Meter::default(),
            calibrating: AtomicBool::new(false),
        }
    }

    /// Alignment of slots in the ring, in bytes.
    pub(super) fn slot_alignment(&self) -> u64 {
        self.source.alignment().max(64)
    }

    /// Whether readers write device memory themselves.
    pub(super) fn shares_memory(&self) -> bool {
        self.device.info().topology.memory == Memory::Shared
    }

    /// Notifies the observer, if any.
    pub(super) fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &self.observer {
            observer.event(event);
        }
    }

    /// Reads bytes of a unit from the source, measures the time and notifies the observer.
    pub(super) fn read<E>(
        &self,
        unit: &Arc<str>,
        bytes: u64,
        read: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let start = Instant::now();
        self.disk.measure(bytes, read)?;
        self.tell(&Event::Read { unit, bytes, span: Span::since(start) });
        Ok(())
    }

    /// While passes are being measured, waits for the copy just issued: its time is known only if it is alone
    /// on the bus.
    pub(super) fn measure_copy<E>(&self, bytes: u64, wait: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.is_calibrating() { self.bus.measure(bytes, wait) } else { Ok(()) }
    }

    pub(super) fn is_calibrating(&self) -> bool {
        self.calibrating.load(Ordering::Relaxed)
    }

    pub(super) fn set_calibrating(&self, measured: bool) {
        self.calibrating.store(measured, Ordering::Relaxed);
    }

    /// The disk and bus measurements since the last call, if they are meaningful.
    pub(super) fn take_links(&self) -> (Option<Link>, Option<Link>) {
        (self.disk.take(), self.bus.take())
    }
}
