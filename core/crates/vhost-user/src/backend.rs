//! What a client negotiates, and where its queues are served.

use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringRwLock};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::config::{self, Shape};
use crate::queue::Queue;
use crate::service::Service;

/// Most descriptors of a queue.
const QUEUE_SIZE_MAX: usize = 1024;

/// One client's view of a disk.
pub(crate) struct Backend {
    pub service: Arc<Service>,
    pub memory: GuestMemoryAtomic<GuestMemoryMmap>,
    pub queues: Vec<Arc<Queue>>,
}

impl Backend {
    /// Makes the view of a client that has not said anything.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        let queues = (0..service.limits.queues).map(|_| Arc::default()).collect();
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        Self { service, memory, queues }
    }

    /// Waits until every request that was taken is answered.
    pub(crate) fn drain(&self) {
        self.queues.iter().for_each(|queue| queue.drain());
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        self.queues.len()
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE_MAX
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_MQ,
        ];
        bits.extend(if self.service.read_only {
            &[VIRTIO_BLK_F_RO][..]
        } else {
            &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]
        });
        let bits = bits.into_iter().fold(0, |all, bit| all | 1 << bit);
        bits | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// The rings know it.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let device = self.service.disk.device();
        let shape = Shape {
            size_bytes: device.size_bytes(),
            block_bytes: device.block_bytes(),
            queues: self.queues.len() as u16,
            request_bytes_max: self.service.limits.request_bytes_max,
        };
        // Bytes after the end are zero: a client may know a longer space.
        let space = config::space(&shape);
        let from = space.iter().copied().chain(std::iter::repeat(0));
        from.skip(offset as usize).take(size as usize).collect()
    }

    fn update_memory(&self, _memory: GuestMemoryAtomic<GuestMemoryMmap>) -> std::io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.queues.len()).map(|number| 1 << number).collect()
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn stop_vring(&self, queue: u32) -> std::io::Result<()> {
        if let Some(queue) = self.queues.get(queue as usize) {
            queue.drain();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        _device_event: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        thread: usize,
    ) -> std::io::Result<()> {
        if let (Some(queue), Some(vring)) = (self.queues.get(thread), vrings.first()) {
            queue.take_all(&self.service, vring, &self.memory);
        }
        Ok(())
    }
}
