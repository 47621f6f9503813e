/** Taps, tickets and buffers, for agents that do their own I/O. Part of hrl.hpp. */
#ifndef HRL_TAP_HPP
#define HRL_TAP_HPP

#include "handle.hpp"

namespace hrl {

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

/**
 * Permission to change an extent. A ticket that is dropped before it was ended ends as failed: the
 * safe way.
 */
class Ticket {
public:
    Ticket(Ticket &&other) noexcept
        : tap_(std::exchange(other.tap_, nullptr)), ticket_(other.ticket_) {}
    Ticket &operator=(Ticket &&other) noexcept {
        if (this != &other) {
            if (tap_ != nullptr) hrl_tap_fail(tap_, ticket_);
            tap_ = std::exchange(other.tap_, nullptr);
            ticket_ = other.ticket_;
        }
        return *this;
    }
    Ticket(const Ticket &) = delete;
    Ticket &operator=(const Ticket &) = delete;
    ~Ticket() {
        if (tap_ != nullptr) hrl_tap_fail(tap_, ticket_);
    }

    /** Reports that the disk took these bytes. Returns the newest sequence. */
    std::uint64_t complete(const void *data, std::size_t length) {
        return end([&](std::uint64_t *sequence) {
            return hrl_tap_complete_write(tap_, ticket_, static_cast<const std::uint8_t *>(data), length, sequence);
        });
    }
    /** Reports that the disk took the bytes of the buffer, which is used up. */
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
    /** Reports that the disk failed: its content is unknown there. */
    void fail() {
        end([&](std::uint64_t *) { return hrl_tap_fail(tap_, ticket_); });
    }
    /** Reports that the disk was not touched. */
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
    /**
     * Does the same as `begin` without waiting. Returns nothing if there is no ticket yet. Then
     * `wake` is called exactly once, from any thread, when it is worth asking again, at the latest
     * when the protection ends. It must return soon and must not call the tap. What it throws is
     * dropped.
     */
    std::optional<Ticket> try_begin(std::uint64_t offset, std::uint64_t length, std::function<void()> wake) const {
        struct Glue {
            static void woken(void *user) noexcept {
                const std::unique_ptr<std::function<void()>> wake(static_cast<std::function<void()> *>(user));
                try {
                    (*wake)();
                } catch (...) {
                    // No caller could take it: wakes come from threads of the library.
                }
            }
        };
        auto waiting = std::make_unique<std::function<void()>>(std::move(wake));
        hrl_ticket ticket{};
        const hrl_status status = hrl_tap_try_begin(get(), offset, length, &Glue::woken, waiting.get(), &ticket);
        if (status == HRL_PENDING) {
            // The wake frees it, perhaps already.
            waiting.release();
            return std::nullopt;
        }
        check(status);
        return Ticket(get(), ticket);
    }
    std::uint64_t flush() const {
        std::uint64_t sequence = 0;
        check(hrl_tap_flush(get(), &sequence));
        return sequence;
    }
};

}  // namespace hrl

#endif
