/** Disks: files, memory, overlays, and your own. Part of hrl.hpp. */
#ifndef HRL_DEVICE_HPP
#define HRL_DEVICE_HPP

#include "handle.hpp"

namespace hrl {

/**
 * A disk to implement, with the contract of hrl_device_callbacks. Methods may throw: a
 * std::system_error counts as its errno, anything else as EIO. The call that needed the disk throws
 * it as hrl::Error.
 */
class BlockDevice {
public:
    virtual ~BlockDevice() = default;
    virtual std::string name() const { return "device"; }
    virtual std::uint64_t size_bytes() const = 0;
    virtual std::uint32_t block_bytes() const { return 512; }
    virtual bool read_only() const { return false; }
    virtual void read(std::uint64_t offset, std::uint8_t *buffer, std::size_t length) = 0;
    virtual void write(std::uint64_t offset, const std::uint8_t *data, std::size_t length, bool durable) = 0;
    virtual void flush() = 0;
    /**
     * Makes a range read as zeroes; `flags` of HRL_DURABLE and HRL_KEEP_ALLOCATED. By default
     * zeroes are written.
     */
    virtual void zero(std::uint64_t offset, std::uint64_t length, std::uint32_t flags) {
        const std::vector<std::uint8_t> zeroes(static_cast<std::size_t>(length < 65536 ? length : 65536));
        for (std::uint64_t done = 0; done < length;) {
            const std::uint64_t left = length - done;
            const std::size_t size = left < zeroes.size() ? static_cast<std::size_t>(left) : zeroes.size();
            write(offset + done, zeroes.data(), size, (flags & HRL_DURABLE) != 0);
            done += size;
        }
    }
    /** Returns whether `discard` does anything. */
    virtual bool discards() const { return false; }
    /** Drops a range, which then reads as zeroes. */
    virtual void discard(std::uint64_t, std::uint64_t) {}
};

/** A disk: file, memory, protected volume, view, overlay, or your own. */
class Device : public detail::Handle<hrl_device, hrl_device_free> {
public:
    using Handle::Handle;

    /** Opens a file or block device; flags of HRL_OPEN_. */
    static Device open_file(const std::string &path, std::uint32_t flags = 0, std::uint64_t create_bytes = 0) {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_device_open_file(path.c_str(), flags, create_bytes, out); }));
    }
    /** Makes a sparse disk in memory. */
    static Device memory(std::uint64_t size_bytes) {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_device_new_memory(size_bytes, out); }));
    }
    /** Makes a writable disk of a read-only one. */
    static Device overlay(const Device &base, const Device &scratch) {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_device_new_overlay(base.get(), scratch.get(), out); }));
    }
    /** Makes a device of an object, which lives as long as something uses the device. */
    static Device from(std::unique_ptr<BlockDevice> device);

    std::uint64_t size_bytes() const noexcept { return hrl_device_size_bytes(get()); }
    std::uint32_t block_bytes() const noexcept { return hrl_device_block_bytes(get()); }
    bool is_read_only() const noexcept { return hrl_device_is_read_only(get()); }
    std::string name() const { return hrl_device_name(get()); }

    void read(std::uint64_t offset, void *buffer, std::size_t length) const {
        check(hrl_device_read(get(), offset, static_cast<std::uint8_t *>(buffer), length));
    }
    std::vector<std::uint8_t> read(std::uint64_t offset, std::size_t length) const {
        std::vector<std::uint8_t> bytes(length);
        read(offset, bytes.data(), length);
        return bytes;
    }
    void write(std::uint64_t offset, const void *data, std::size_t length, std::uint32_t flags = 0) const {
        check(hrl_device_write(get(), offset, static_cast<const std::uint8_t *>(data), length, flags));
    }
    void zero(std::uint64_t offset, std::uint64_t length, std::uint32_t flags = 0) const {
        check(hrl_device_zero(get(), offset, length, flags));
    }
    hrl_discarded discard(std::uint64_t offset, std::uint64_t length) const {
        std::uint32_t effect = 0;
        check(hrl_device_discard(get(), offset, length, &effect));
        return static_cast<hrl_discarded>(effect);
    }
    void flush() const { check(hrl_device_flush(get())); }
    /**
     * Passes the allocation runs of a range to `call(offset, length, allocated)`, which returns
     * nothing, or false to stop.
     */
    template <typename Call>
    void allocation(std::uint64_t offset, std::uint64_t length, Call &&call) const {
        using Guarded = detail::Guarded<std::remove_reference_t<Call>>;
        struct Glue {
            static bool visit(void *user, std::uint64_t first, std::uint64_t bytes, bool allocated) noexcept {
                auto *guarded = static_cast<Guarded *>(user);
                try {
                    if constexpr (std::is_same_v<decltype(guarded->call(first, bytes, allocated)), void>) {
                        guarded->call(first, bytes, allocated);
                        return true;
                    } else {
                        return guarded->call(first, bytes, allocated);
                    }
                } catch (...) {
                    guarded->thrown.keep();
                    return false;
                }
            }
        };
        Guarded guarded{call};
        const hrl_status status = hrl_device_allocation(get(), offset, length, &Glue::visit, &guarded);
        guarded.thrown.finish(status);
    }
};

inline Device Device::from(std::unique_ptr<BlockDevice> device) {
    struct Glue {
        static BlockDevice &of(void *user) { return *static_cast<BlockDevice *>(user); }
        static std::int32_t read(void *user, std::uint64_t offset, std::uint8_t *buffer, std::size_t length) noexcept {
            return detail::errno_of([&] { of(user).read(offset, buffer, length); });
        }
        static std::int32_t write(void *user, std::uint64_t offset, const std::uint8_t *data, std::size_t length,
                                  std::uint32_t flags) noexcept {
            return detail::errno_of([&] { of(user).write(offset, data, length, (flags & HRL_DURABLE) != 0); });
        }
        static std::int32_t zero(void *user, std::uint64_t offset, std::uint64_t length, std::uint32_t flags) noexcept {
            return detail::errno_of([&] { of(user).zero(offset, length, flags); });
        }
        static std::int32_t discard(void *user, std::uint64_t offset, std::uint64_t length) noexcept {
            return detail::errno_of([&] { of(user).discard(offset, length); });
        }
        static std::int32_t flush(void *user) noexcept {
            return detail::errno_of([&] { of(user).flush(); });
        }
        static void free(void *user) noexcept { delete static_cast<BlockDevice *>(user); }
    };
    if (!device) throw std::invalid_argument("hrl::Device::from needs a device");
    const std::string name = device->name();
    auto callbacks = sized<hrl_device_callbacks>();
    callbacks.size_bytes = device->size_bytes();
    callbacks.block_bytes = device->block_bytes();
    callbacks.read_only = device->read_only();
    callbacks.name = name.c_str();
    callbacks.read = &Glue::read;
    callbacks.write = &Glue::write;
    callbacks.zero = &Glue::zero;
    callbacks.discard = device->discards() ? &Glue::discard : nullptr;
    callbacks.flush = &Glue::flush;
    callbacks.free = &Glue::free;
    Device made(detail::make<hrl_device>(
        [&](hrl_device **out) { return hrl_device_from_callbacks(&callbacks, device.get(), out); }));
    // From here on the callbacks free it.
    device.release();
    return made;
}

}  // namespace hrl

#endif
