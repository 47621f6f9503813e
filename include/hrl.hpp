/**
 * hrl for C++17: handles that free themselves, exceptions with everything that the library knows, callbacks as lambdas.
 *
 * Header only, over hrl.h, which documents every function, its statuses and its threads. Handles can be moved, not copied.
 * A moved-from or default-made handle is empty; using it gives hrl::Error. Callbacks may throw: the exception ends the
 * operation and comes out of the call that runs them, or, where a thread of the library runs them, counts as a failure.
 */
#ifndef HRL_HPP
#define HRL_HPP

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "hrl.h"

namespace hrl {

/** A failure: what() is the sentence, status() says what to do next. */
class Error : public std::runtime_error {
public:
    /** Takes the last error of the calling thread. */
    explicit Error(hrl_status status)
        : std::runtime_error(hrl_error_message()),
          status_(status),
          operation_(hrl_error_operation()),
          object_(hrl_error_object()),
          os_code_(hrl_error_os_code()) {
        std::uint64_t place = 0;
        if (hrl_error_offset(&place)) offset_ = place;
    }

    /** One of the HRL_ERROR_ numbers. */
    hrl_status status() const noexcept { return status_; }
    /** Name of the status, such as "not-found". */
    const char *kind() const noexcept { return hrl_status_name(status_); }
    /** What was being done. */
    const std::string &operation() const noexcept { return operation_; }
    /** Name of the object that it was done to. */
    const std::string &object() const noexcept { return object_; }
    /** Byte offset in the object, where one is known. */
    std::optional<std::uint64_t> offset() const noexcept { return offset_; }
    /** errno of the cause; 0 when it was another. */
    int os_code() const noexcept { return os_code_; }

private:
    hrl_status status_;
    std::string operation_;
    std::string object_;
    std::optional<std::uint64_t> offset_;
    int os_code_;
};

/** Throws unless the status is HRL_OK. */
inline void check(hrl_status status) {
    if (status < 0) throw Error(status);
}

namespace detail {

template <typename T, void (*Free)(T *)>
class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T *raw) noexcept : raw_(raw) {}
    Handle(Handle &&other) noexcept : raw_(other.release()) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() { reset(); }

    /** The handle of hrl.h, which stays owned by this object. */
    T *get() const noexcept { return raw_; }
    /** Gives the handle of hrl.h away. */
    T *release() noexcept { return std::exchange(raw_, nullptr); }
    /** Frees what it holds. */
    void reset(T *raw = nullptr) noexcept {
        if (raw_ != nullptr) Free(raw_);
        raw_ = raw;
    }
    /** Holds something. */
    explicit operator bool() const noexcept { return raw_ != nullptr; }

private:
    T *raw_ = nullptr;
};

/** Makes a handle with a function whose last argument is its output. */
template <typename T, typename Make>
T *make(Make &&call) {
    T *raw = nullptr;
    check(call(&raw));
    return raw;
}

/** A callable that a C callback runs on the calling thread; keeps what it threw. */
template <typename Call>
struct Guarded {
    Call &call;
    std::exception_ptr thrown = nullptr;

    void rethrow() {
        if (thrown) std::rethrow_exception(thrown);
    }
};

/** Visitor for the functions that give values one by one; the callable returns nothing, or false to stop. */
template <typename Value, typename Call>
bool visit(void *user, const Value *value) noexcept {
    auto *guarded = static_cast<Guarded<Call> *>(user);
    try {
        if constexpr (std::is_same_v<decltype(guarded->call(*value)), void>) {
            guarded->call(*value);
            return true;
        } else {
            return guarded->call(*value);
        }
    } catch (...) {
        guarded->thrown = std::current_exception();
        return false;
    }
}

template <typename Value, typename List, typename Call>
void each(List &&list, Call &&call) {
    using Callable = std::remove_reference_t<Call>;
    Guarded<Callable> guarded{call};
    const hrl_status status = list(&visit<Value, Callable>, static_cast<void *>(&guarded));
    guarded.rethrow();
    check(status);
}

inline bool tell(void *user, std::uint64_t done, std::uint64_t total) noexcept {
    using Call = const std::function<bool(std::uint64_t, std::uint64_t)>;
    auto *guarded = static_cast<Guarded<Call> *>(user);
    try {
        return guarded->call(done, total);
    } catch (...) {
        // Several threads may come here; the first one's exception is as good as any.
        return false;
    }
}

/** An errno for what a callback threw. */
inline int errno_of_exception() noexcept {
    try {
        throw;
    } catch (const std::system_error &error) {
        return error.code().value() > 0 ? error.code().value() : EIO;
    } catch (const std::bad_alloc &) {
        return ENOMEM;
    } catch (...) {
        return EIO;
    }
}

}  // namespace detail

/** Told how far a long operation is, in bytes; returns false to stop it. Called from several threads. */
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
/** A time limit. */
using Limit = std::chrono::milliseconds;

/** A disk to implement: the contract is that of hrl_device_callbacks. Methods may throw std::system_error. */
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
    /** Makes a device of an object, and keeps it for as long as something uses it. */
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
};

inline Device Device::from(std::unique_ptr<BlockDevice> device) {
    struct Glue {
        static BlockDevice &of(void *user) { return *static_cast<BlockDevice *>(user); }
        static std::int32_t read(void *user, std::uint64_t offset, std::uint8_t *buffer, std::size_t length) noexcept {
            try {
                of(user).read(offset, buffer, length);
                return 0;
            } catch (...) {
                return detail::errno_of_exception();
            }
        }
        static std::int32_t write(void *user, std::uint64_t offset, const std::uint8_t *data, std::size_t length,
                                  std::uint32_t flags) noexcept {
            try {
                of(user).write(offset, data, length, (flags & HRL_DURABLE) != 0);
                return 0;
            } catch (...) {
                return detail::errno_of_exception();
            }
        }
        static std::int32_t flush(void *user) noexcept {
            try {
                of(user).flush();
                return 0;
            } catch (...) {
                return detail::errno_of_exception();
            }
        }
        static void free(void *user) noexcept { delete static_cast<BlockDevice *>(user); }
    };
    if (!device) throw std::invalid_argument("hrl::Device::from needs a device");
    const std::string name = device->name();
    hrl_device_callbacks callbacks{};
    callbacks.struct_bytes = sizeof callbacks;
    callbacks.size_bytes = device->size_bytes();
    callbacks.block_bytes = device->block_bytes();
    callbacks.read_only = device->read_only();
    callbacks.name = name.c_str();
    callbacks.read = &Glue::read;
    callbacks.write = &Glue::write;
    callbacks.flush = &Glue::flush;
    callbacks.free = &Glue::free;
    Device made(detail::make<hrl_device>(
        [&](hrl_device **out) { return hrl_device_from_callbacks(&callbacks, device.get(), out); }));
    // From here on the callbacks free it.
    device.release();
    return made;
}

/** Where a vault is kept. */
class Store : public detail::Handle<hrl_store, hrl_store_free> {
public:
    using Handle::Handle;
    /** Opens a directory; makes it when it is absent, if asked. */
    static Store directory(const std::string &path, bool create = true) {
        return Store(detail::make<hrl_store>(
            [&](hrl_store **out) { return hrl_store_open_directory(path.c_str(), create, out); }));
    }
    /** Opens a directory or, in builds with the feature `cloud`, an object store: s3://, az://, gs://. */
    static Store url(const std::string &url, bool create = true) {
        return Store(detail::make<hrl_store>(
            [&](hrl_store **out) { return hrl_store_open_url(url.c_str(), create, out); }));
    }
};

/** A key-encryption key. */
class Key : public detail::Handle<hrl_key, hrl_key_free> {
public:
    using Handle::Handle;
    static Key from_bytes(const std::uint8_t *bytes, std::size_t length) {
        return Key(
            detail::make<hrl_key>([&](hrl_key **out) { return hrl_key_from_bytes(bytes, length, out); }));
    }
    static Key from_file(const std::string &path) {
        return Key(detail::make<hrl_key>([&](hrl_key **out) { return hrl_key_from_file(path.c_str(), out); }));
    }
    /** Its name, which tells nothing about it. */
    std::string id() const { return hrl_key_id(get()); }
};

class Replica;

/** A store with volumes in it. */
class Vault : public detail::Handle<hrl_vault, hrl_vault_free> {
public:
    using Handle::Handle;
    /** Makes a store into a vault, or opens it when it is one. */
    static Vault create(const Store &store, const Key &key = Key()) {
        return Vault(detail::make<hrl_vault>(
            [&](hrl_vault **out) { return hrl_vault_create(store.get(), key.get(), out); }));
    }
    static Vault open(const Store &store, const Key &key = Key()) {
        return Vault(detail::make<hrl_vault>(
            [&](hrl_vault **out) { return hrl_vault_open(store.get(), key.get(), out); }));
    }
    std::vector<hrl_volume_info> volumes() const {
        std::vector<hrl_volume_info> found;
        detail::each<hrl_volume_info>(
            [&](auto call, void *user) { return hrl_vault_volumes(get(), call, user); },
            [&](const hrl_volume_info &info) { found.push_back(info); });
        return found;
    }
    /** One of its volumes. */
    Replica replica(const std::string &name) const;
    /** Wraps the key of a volume anew with another key-encryption key. */
    hrl_rotation_report rotate_key(const std::string &volume, const Key &new_key) const {
        hrl_rotation_report report{};
        check(hrl_vault_rotate_key(get(), volume.c_str(), new_key.get(), &report));
        return report;
    }
    /** Makes a sealed volume unreadable for ever; `flags` are of HRL_SHRED_. */
    hrl_shred_report shred(const std::string &volume, std::uint32_t flags = 0) const {
        hrl_shred_report report{};
        check(hrl_vault_shred(get(), volume.c_str(), flags, &report));
        return report;
    }
};

/** What changed between two states. */
class Changes : public detail::Handle<hrl_changes, hrl_changes_free> {
public:
    using Handle::Handle;
    std::uint64_t total_bytes() const noexcept { return hrl_changes_total_bytes(get()); }
    std::vector<hrl_change> runs() const {
        std::vector<hrl_change> found;
        detail::each<hrl_change>([&](auto call, void *user) { return hrl_changes_runs(get(), call, user); },
                                 [&](const hrl_change &run) { found.push_back(run); });
        return found;
    }
    std::uint64_t write_to_file(const std::string &path) const {
        std::uint64_t bytes = 0;
        check(hrl_changes_write_to_file(get(), path.c_str(), &bytes));
        return bytes;
    }
};

/** What a verification found wrong. */
struct Finding {
    std::string object;
    std::string message;
};

/** One volume in a vault. States are said as for hrl_replica_resolve: "newest", a sequence, a time, a point, a label. */
class Replica : public detail::Handle<hrl_replica, hrl_replica_free> {
public:
    using Handle::Handle;

    void refresh() const { check(hrl_replica_refresh(get())); }
    hrl_volume_info info() const {
        hrl_volume_info info;
        check(hrl_replica_info(get(), &info));
        return info;
    }
    std::vector<hrl_point> points() const {
        std::vector<hrl_point> found;
        detail::each<hrl_point>([&](auto call, void *user) { return hrl_replica_points(get(), call, user); },
                                [&](const hrl_point &point) { found.push_back(point); });
        return found;
    }
    std::vector<hrl_timeline_entry> timeline() const {
        std::vector<hrl_timeline_entry> found;
        detail::each<hrl_timeline_entry>(
            [&](auto call, void *user) { return hrl_replica_timeline(get(), call, user); },
            [&](const hrl_timeline_entry &entry) { found.push_back(entry); });
        return found;
    }
    std::uint64_t resolve(const std::string &at) const {
        std::uint64_t sequence = 0;
        check(hrl_replica_resolve(get(), at.c_str(), &sequence));
        return sequence;
    }
    /** Its stage and, where asked for, its epoch and steps. */
    hrl_stage stage(std::uint32_t *epoch = nullptr, std::vector<hrl_step> *steps = nullptr) const {
        std::uint32_t stage = 0;
        check(hrl_replica_lifecycle(get(), &stage, epoch, nullptr, nullptr));
        if (steps) {
            detail::each<hrl_step>(
                [&](auto call, void *user) { return hrl_replica_lifecycle(get(), &stage, nullptr, call, user); },
                [&](const hrl_step &step) { steps->push_back(step); });
        }
        return static_cast<hrl_stage>(stage);
    }
    std::vector<hrl_branch> branches() const {
        std::vector<hrl_branch> found;
        detail::each<hrl_branch>([&](auto call, void *user) { return hrl_replica_branches(get(), call, user); },
                                 [&](const hrl_branch &branch) { found.push_back(branch); });
        return found;
    }
    void drop_branch(std::uint32_t epoch) const { check(hrl_replica_drop_branch(get(), epoch)); }
    /** Records a test failover; gives the sequence to view. */
    std::uint64_t begin_test(const std::string &name, const std::string &at = "newest-good") const {
        std::uint64_t sequence = 0;
        check(hrl_replica_begin_test(get(), name.c_str(), at.c_str(), &sequence));
        return sequence;
    }
    void end_test(const std::string &name) const { check(hrl_replica_end_test(get(), name.c_str())); }
    Device view(const std::string &at = "newest") const {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_replica_view(get(), at.c_str(), out); }));
    }
    hrl_restore_report restore(const std::string &at, const std::string &path, std::uint32_t flags = 0,
                               const Progress &progress = nullptr) const {
        hrl_restore_report report;
        detail::Guarded<const Progress> guarded{progress};
        check(hrl_replica_restore(get(), at.c_str(), path.c_str(), flags, progress ? &detail::tell : nullptr,
                                  &guarded, &report));
        return report;
    }
    Changes changes(const std::string &from, const std::string &to = "newest") const {
        return Changes(detail::make<hrl_changes>(
            [&](hrl_changes **out) { return hrl_replica_changes(get(), from.c_str(), to.c_str(), out); }));
    }
    /** Checks everything; what is wrong is added to `findings`. */
    hrl_verify_report verify(std::vector<Finding> *findings = nullptr) const {
        struct Glue {
            static void found(void *user, const char *object, const char *message) noexcept {
                try {
                    static_cast<std::vector<Finding> *>(user)->push_back(Finding{object, message});
                } catch (...) {
                    // Out of memory: the report still counts it.
                }
            }
        };
        hrl_verify_report report;
        check(hrl_replica_verify(get(), nullptr, findings ? &Glue::found : nullptr, findings, &report));
        return report;
    }
};

inline Replica Vault::replica(const std::string &name) const {
    return Replica(detail::make<hrl_replica>(
        [&](hrl_replica **out) { return hrl_replica_open(get(), name.c_str(), out); }));
}

/** Memory that goes to disk and journal without another copy. */
class Buffer : public detail::Handle<hrl_buffer, hrl_buffer_free> {
public:
    using Handle::Handle;
    explicit Buffer(std::size_t length)
        : Handle(detail::make<hrl_buffer>([&](hrl_buffer **out) { return hrl_buffer_new(length, out); })) {}
    Buffer(const void *data, std::size_t length)
        : Handle(detail::make<hrl_buffer>([&](hrl_buffer **out) {
              return hrl_buffer_copy(static_cast<const std::uint8_t *>(data), length, out);
          })) {}
    std::uint8_t *data() const noexcept { return hrl_buffer_data(get()); }
    std::size_t size() const noexcept { return hrl_buffer_length(get()); }
};

class Tap;

/** Permission to change an extent. Ends it as failed when it is dropped without having been ended: the safe way. */
class Ticket {
public:
    Ticket(Ticket &&other) noexcept
        : tap_(std::exchange(other.tap_, nullptr)), ticket_(other.ticket_) {}
    Ticket &operator=(Ticket &&) = delete;
    Ticket(const Ticket &) = delete;
    Ticket &operator=(const Ticket &) = delete;
    ~Ticket() {
        if (tap_ != nullptr) hrl_tap_fail(tap_, ticket_);
    }

    /** The disk took these bytes. Returns the newest sequence. */
    std::uint64_t complete(const void *data, std::size_t length) {
        return end([&](std::uint64_t *sequence) {
            return hrl_tap_complete_write(tap_, ticket_, static_cast<const std::uint8_t *>(data), length, sequence);
        });
    }
    /** The disk took the bytes of the buffer, which is used up. */
    std::uint64_t complete(Buffer buffer) {
        return end([&](std::uint64_t *sequence) {
            return hrl_tap_complete_buffer(tap_, ticket_, buffer.release(), sequence);
        });
    }
    std::uint64_t complete_zero() {
        return end([&](std::uint64_t *sequence) { return hrl_tap_complete_zero(tap_, ticket_, sequence); });
    }
    std::uint64_t complete_discard(hrl_discarded effect) {
        return end([&](std::uint64_t *sequence) {
            return hrl_tap_complete_discard(tap_, ticket_, static_cast<std::uint32_t>(effect), sequence);
        });
    }
    /** The disk failed: what it holds is unknown. */
    void fail() {
        end([&](std::uint64_t *) { return hrl_tap_fail(tap_, ticket_); });
    }
    /** The disk was not touched. */
    void cancel() {
        end([&](std::uint64_t *) { return hrl_tap_cancel(tap_, ticket_); });
    }

private:
    friend class Tap;
    Ticket(const hrl_tap *tap, hrl_ticket ticket) noexcept : tap_(tap), ticket_(ticket) {}

    template <typename Call>
    std::uint64_t end(Call &&call) {
        std::uint64_t sequence = 0;
        check(call(&sequence));
        tap_ = nullptr;
        return sequence;
    }

    const hrl_tap *tap_;
    hrl_ticket ticket_;
};

/** The tap of a protected volume, for agents that do their own I/O. Outlives its tickets. */
class Tap : public detail::Handle<hrl_tap, hrl_tap_free> {
public:
    using Handle::Handle;
    Ticket begin(std::uint64_t offset, std::uint64_t length) const {
        hrl_ticket ticket;
        check(hrl_tap_begin(get(), offset, length, &ticket));
        return Ticket(get(), ticket);
    }
    std::uint64_t flush() const {
        std::uint64_t sequence = 0;
        check(hrl_tap_flush(get(), &sequence));
        return sequence;
    }
};

/** What happened to a protected volume. */
struct Event {
    std::int64_t time_ns;
    std::string volume;
    std::string kind;
    std::string message;
};

/** How to open a protection; see hrl_protection_options_set for the names of the policy. */
class ProtectionOptions : public detail::Handle<hrl_protection_options, hrl_protection_options_free> {
public:
    ProtectionOptions(const std::string &volume, const Device &device, const Vault &vault, const std::string &state)
        : Handle(detail::make<hrl_protection_options>([&](hrl_protection_options **out) {
              return hrl_protection_options_new(volume.c_str(), device.get(), vault.get(), state.c_str(), out);
          })) {}
    ProtectionOptions &set(const std::string &name, const std::string &value) {
        check(hrl_protection_options_set(get(), name.c_str(), value.c_str()));
        return *this;
    }
    ProtectionOptions &take_over(bool yes = true) {
        check(hrl_protection_options_take_over(get(), yes));
        return *this;
    }
    /** Called from threads of the library; what it throws is dropped. */
    ProtectionOptions &on_event(std::function<void(const Event &)> call) {
        auto kept = std::make_shared<std::function<void(const Event &)>>(std::move(call));
        check(hrl_protection_options_on_event(get(), *kept ? &told : nullptr, kept.get()));
        events_ = std::move(kept);
        return *this;
    }

private:
    friend class Protection;
    friend class FailedOver;
    friend class Follower;
    static void told(void *user, const hrl_event *event) noexcept {
        try {
            (*static_cast<std::function<void(const Event &)> *>(user))(
                Event{event->time_ns, event->volume, event->kind, event->message});
        } catch (...) {
            // Nobody to give it to: events come from threads of the library.
        }
    }
    std::shared_ptr<std::function<void(const Event &)>> events_;
};

/** One protected volume, running. */
class Protection {
public:
    explicit Protection(const ProtectionOptions &options)
        : events_(options.events_),
          handle_(detail::make<hrl_protection>(
              [&](hrl_protection **out) { return hrl_protection_open(options.get(), out); })) {}

    hrl_protection *get() const noexcept { return handle_.get(); }
    /** The volume to write to; free it before `stop`. */
    Device device() const {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_protection_device(get(), out); }));
    }
    Tap tap() const {
        return Tap(detail::make<hrl_tap>([&](hrl_tap **out) { return hrl_protection_tap(get(), out); }));
    }
    hrl_point mark(const std::string &label = "", hrl_point_kind kind = HRL_POINT_CRASH) const {
        hrl_point point;
        check(hrl_protection_mark(get(), static_cast<std::uint32_t>(kind), label.c_str(), &point));
        return point;
    }
    /** Marks an application-consistent point with the applications that the policy names: "quiesce", "quiesce_limit". */
    hrl_point mark_app(const std::string &label = "") const {
        hrl_point point;
        check(hrl_protection_mark_app(get(), label.c_str(), &point));
        return point;
    }
    /** Marks an application-consistent point between `quiesce` and `release`; what `quiesce` throws comes out. */
    hrl_point mark_quiesced(const std::function<void(Limit)> &quiesce, const std::function<void()> &release,
                            const std::string &label, Limit limit) const {
        Quiescing glue{quiesce, release, nullptr};
        hrl_quiesce_callbacks callbacks{};
        callbacks.struct_bytes = sizeof callbacks;
        callbacks.quiesce = &Quiescing::on_quiesce;
        callbacks.release = &Quiescing::on_release;
        hrl_point point;
        const hrl_status status =
            hrl_protection_mark_quiesced(get(), &callbacks, &glue, label.c_str(),
                                         static_cast<std::uint64_t>(limit.count()), &point);
        if (glue.thrown) std::rethrow_exception(glue.thrown);
        check(status);
        return point;
    }
    hrl_stats stats() const {
        hrl_stats stats;
        check(hrl_protection_stats(get(), &stats));
        return stats;
    }
    void wait_ordered(Limit limit) const {
        check(hrl_protection_wait_ordered(get(), static_cast<std::uint64_t>(limit.count())));
    }
    std::uint64_t wait_replicated(Limit limit) const {
        std::uint64_t sequence = 0;
        check(hrl_protection_wait_replicated(get(), static_cast<std::uint64_t>(limit.count()), &sequence));
        return sequence;
    }
    void resync() const { check(hrl_protection_resync(get())); }
    void stop(Limit limit) const {
        check(hrl_protection_stop(get(), static_cast<std::uint64_t>(limit.count())));
    }

private:
    struct Quiescing {
        const std::function<void(Limit)> &quiesce;
        const std::function<void()> &release;
        std::exception_ptr thrown;

        static std::int32_t on_quiesce(void *user, std::uint64_t limit_ms) noexcept {
            return static_cast<Quiescing *>(user)->run(
                [&](Quiescing &self) { self.quiesce(Limit(static_cast<Limit::rep>(limit_ms))); });
        }
        static std::int32_t on_release(void *user) noexcept {
            return static_cast<Quiescing *>(user)->run([](Quiescing &self) { self.release(); });
        }
        template <typename Call>
        std::int32_t run(Call &&call) noexcept {
            try {
                call(*this);
                return 0;
            } catch (...) {
                if (!thrown) thrown = std::current_exception();
                return detail::errno_of_exception();
            }
        }
    };

    friend class Follower;
    Protection(std::shared_ptr<std::function<void(const Event &)>> events, hrl_protection *raw)
        : events_(std::move(events)), handle_(raw) {}

    // Freed after the handle: its threads may call it until then.
    std::shared_ptr<std::function<void(const Event &)>> events_;
    detail::Handle<hrl_protection, hrl_protection_free> handle_;
};

/** A volume that failed over to here, running. Nothing is final before `commit`. */
class FailedOver {
public:
    /** `where` as for a protection: the disk's content is lost. `options.struct_bytes` is set here. */
    explicit FailedOver(const ProtectionOptions &where, hrl_failover_options options = hrl_failover_options{})
        : events_(where.events_), handle_(detail::make<hrl_failover>([&](hrl_failover **out) {
              options.struct_bytes = sizeof options;
              return hrl_failover_start(where.get(), &options, out);
          })) {}

    hrl_failover *get() const noexcept { return handle_.get(); }
    /** The volume to write to; free it before the end. */
    Device device() const {
        return Device(
            detail::make<hrl_device>([&](hrl_device **out) { return hrl_failover_device(get(), out); }));
    }
    hrl_failover_status status() const {
        hrl_failover_status status;
        check(hrl_failover_get_status(get(), &status, nullptr));
        return status;
    }
    hrl_stats stats() const {
        hrl_failover_status status;
        hrl_stats stats;
        check(hrl_failover_get_status(get(), &status, &stats));
        return stats;
    }
    hrl_point mark(const std::string &label = "") const {
        hrl_point point;
        check(hrl_failover_mark(get(), label.c_str(), &point));
        return point;
    }
    void commit() const { check(hrl_failover_commit(get())); }
    std::uint64_t wait_replicated(Limit limit) const {
        std::uint64_t sequence = 0;
        check(hrl_failover_wait_replicated(get(), static_cast<std::uint64_t>(limit.count()), &sequence));
        return sequence;
    }
    void wait_hydrated(Limit limit) const {
        check(hrl_failover_wait_hydrated(get(), static_cast<std::uint64_t>(limit.count())));
    }
    void cancel() const { check(hrl_failover_cancel(get())); }
    void stop(Limit limit) const { check(hrl_failover_stop(get(), static_cast<std::uint64_t>(limit.count()))); }
    void detach(Limit limit) const { check(hrl_failover_detach(get(), static_cast<std::uint64_t>(limit.count()))); }

private:
    // Freed after the handle: its threads may call it until then.
    std::shared_ptr<std::function<void(const Event &)>> events_;
    detail::Handle<hrl_failover, hrl_failover_free> handle_;
};

/** A disk at the old site that follows the volume. */
class Follower : public detail::Handle<hrl_follower, hrl_follower_free> {
public:
    explicit Follower(const ProtectionOptions &where)
        : Handle(detail::make<hrl_follower>(
              [&](hrl_follower **out) { return hrl_follower_open(where.get(), out); })) {}
    hrl_catch_up catch_up(const std::string &at = "newest", const Progress &progress = nullptr) {
        hrl_catch_up done;
        detail::Guarded<const Progress> guarded{progress};
        const hrl_status status =
            hrl_follower_catch_up(get(), at.c_str(), progress ? &detail::tell : nullptr, &guarded, &done);
        guarded.rethrow();
        check(status);
        return done;
    }
    /** Takes the volume home; a limit of zero does not ask the other site. */
    Protection fail_back(const ProtectionOptions &where, Limit planned) {
        return Protection(where.events_, detail::make<hrl_protection>([&](hrl_protection **out) {
            return hrl_follower_fail_back(get(), where.get(), static_cast<std::uint64_t>(planned.count()), nullptr,
                                          nullptr, nullptr, out);
        }));
    }
};

/** A listening NBD server. */
class NbdServer : public detail::Handle<hrl_nbd_server, hrl_nbd_server_free> {
public:
    using Handle::Handle;
    NbdServer(const std::string &address, const std::string &name, const Device &device, std::uint32_t flags = 0,
              const Changes &changes = Changes())
        : Handle(detail::make<hrl_nbd_server>([&](hrl_nbd_server **out) {
              return hrl_nbd_server_start(address.c_str(), name.c_str(), device.get(), changes.get(), flags, out);
          })) {}
    /** With TLS, and nothing without it; `options.struct_bytes` is set here. */
    static NbdServer tls(const std::string &address, const std::string &name, const Device &device, hrl_nbd_tls options,
                         std::uint32_t flags = 0, const Changes &changes = Changes()) {
        options.struct_bytes = sizeof options;
        return NbdServer(detail::make<hrl_nbd_server>([&](hrl_nbd_server **out) {
            return hrl_nbd_server_start_tls(address.c_str(), name.c_str(), device.get(), changes.get(), flags, &options,
                                            out);
        }));
    }
    std::string uri() const { return hrl_nbd_server_uri(get()); }
    hrl_nbd_stats stats() const {
        hrl_nbd_stats stats;
        check(hrl_nbd_server_stats(get(), &stats));
        return stats;
    }
    void stop() const { check(hrl_nbd_server_stop(get())); }
};

/** A sealed segment of a journal. */
class Segment : public detail::Handle<hrl_segment, hrl_segment_free> {
public:
    using Handle::Handle;
    explicit Segment(const std::string &path, const Replica &keys = Replica())
        : Handle(detail::make<hrl_segment>(
              [&](hrl_segment **out) { return hrl_segment_open(path.c_str(), keys.get(), out); })) {}
    hrl_segment_summary summary() const {
        hrl_segment_summary summary;
        check(hrl_segment_get_summary(get(), &summary));
        return summary;
    }
    /** Gives every record to the callable, which returns nothing, or false to stop. */
    template <typename Call>
    void records(Call &&call) const {
        detail::each<hrl_record>(
            [&](auto visit, void *user) { return hrl_segment_records(get(), visit, user); }, call);
    }
    void verify() const { check(hrl_segment_verify(get())); }
};

}  // namespace hrl

#endif
