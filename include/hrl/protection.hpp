/** Protected volumes. Part of hrl.hpp. */
#ifndef HRL_PROTECTION_HPP
#define HRL_PROTECTION_HPP

#include "device.hpp"
#include "tap.hpp"
#include "vault.hpp"

namespace hrl {

/** An event of a protected volume. */
struct Event {
    std::int64_t time_ns;
    std::string volume;
    std::string kind;
    std::string message;
};

/** Options for opening a protection. hrl_protection_options_set has the names of the policy. */
class ProtectionOptions : public detail::Handle<hrl_protection_options, hrl_protection_options_free> {
public:
    ProtectionOptions(const std::string &volume, const Device &device, const Vault &vault, const std::string &state)
        : Handle(detail::make<hrl_protection_options>([&](hrl_protection_options **out) {
              return hrl_protection_options_new(volume.c_str(), device.get(), vault.get(), state.c_str(), out);
          })) {}
    /** Options without a device, for Attachment. */
    ProtectionOptions(const std::string &volume, const Vault &vault, const std::string &state)
        : Handle(detail::make<hrl_protection_options>([&](hrl_protection_options **out) {
              return hrl_protection_options_new(volume.c_str(), nullptr, vault.get(), state.c_str(), out);
          })) {}
    ProtectionOptions &set(const std::string &name, const std::string &value) {
        check(hrl_protection_options_set(get(), name.c_str(), value.c_str()));
        return *this;
    }
    ProtectionOptions &take_over(bool yes = true) {
        check(hrl_protection_options_take_over(get(), yes));
        return *this;
    }
    ProtectionOptions &adopt_disk(bool yes = true) {
        check(hrl_protection_options_adopt_disk(get(), yes));
        return *this;
    }
    /** Says that a copy writes to the volume: it is unordered until Protection::set_writer_in_sync. */
    ProtectionOptions &outside_writer(bool yes = true) {
        check(hrl_protection_options_outside_writer(get(), yes));
        return *this;
    }
    /** Sets whether a sudden change of what is written is noticed. By default it is. */
    ProtectionOptions &suspicion(bool yes = true) {
        check(hrl_protection_options_suspicion(get(), yes));
        return *this;
    }
    /**
     * Sets the receiver of events, which threads of the library call. What it throws is dropped.
     */
    ProtectionOptions &on_event(std::function<void(const Event &)> call) {
        auto kept = std::make_shared<std::function<void(const Event &)>>(std::move(call));
        check(hrl_protection_options_on_event(get(), *kept ? &received : nullptr, kept.get()));
        events_ = std::move(kept);
        return *this;
    }

private:
    friend class Attachment;
    friend class Protection;
    friend class FailedOver;
    friend class Follower;
    static void received(void *user, const hrl_event *event) noexcept {
        try {
            (*static_cast<std::function<void(const Event &)> *>(user))(
                Event{event->time_ns, event->volume, event->kind, event->message});
        } catch (...) {
            // No caller could take it: events come from threads of the library.
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
    /** Returns the volume to write to. Free it before `stop`. */
    Device device() const {
        return Device(detail::make<hrl_device>(
            [&](hrl_device **out) { return hrl_protection_device(get(), out); }));
    }
    Tap tap() const {
        return Tap(detail::make<hrl_tap>([&](hrl_tap **out) { return hrl_protection_tap(get(), out); }));
    }
    hrl_point mark(const std::string &label = "", hrl_point_kind kind = HRL_POINT_CRASH) const {
        auto point = sized<hrl_point>();
        check(hrl_protection_mark(get(), static_cast<std::uint32_t>(kind), label.c_str(), &point));
        return point;
    }
    /**
     * Marks an application-consistent point with the applications of the policy: "quiesce",
     * "quiesce_limit".
     */
    hrl_point mark_app(const std::string &label = "") const {
        auto point = sized<hrl_point>();
        check(hrl_protection_mark_app(get(), label.c_str(), &point));
        return point;
    }
    /**
     * Marks an application-consistent point between `quiesce` and `release`. Their exceptions come
     * out.
     */
    hrl_point mark_quiesced(const std::function<void(Limit)> &quiesce, const std::function<void()> &release,
                            const std::string &label, Limit limit) const {
        Quiescing glue{quiesce, release};
        auto callbacks = sized<hrl_quiesce_callbacks>();
        callbacks.quiesce = &Quiescing::on_quiesce;
        callbacks.release = &Quiescing::on_release;
        auto point = sized<hrl_point>();
        const hrl_status status =
            hrl_protection_mark_quiesced(get(), &callbacks, &glue, label.c_str(),
                                         detail::millis(limit), &point);
        glue.thrown.finish(status);
        return point;
    }
    hrl_stats stats() const {
        auto stats = sized<hrl_stats>();
        check(hrl_protection_stats(get(), &stats));
        return stats;
    }
    /** Returns the history that the vault knows. */
    std::vector<hrl_timeline_entry> timeline() const {
        return detail::collect<hrl_timeline_entry>(
            [&](auto call, void *user) { return hrl_protection_timeline(get(), call, user); });
    }
    void wait_ordered(Limit limit) const {
        check(hrl_protection_wait_ordered(get(), detail::millis(limit)));
    }
    std::uint64_t wait_replicated(Limit limit) const {
        std::uint64_t sequence = 0;
        check(hrl_protection_wait_replicated(get(), detail::millis(limit), &sequence));
        return sequence;
    }
    void resync() const { check(hrl_protection_resync(get())); }
    /** Says whether the outside writer is in sync. */
    void set_writer_in_sync(bool yes) const { check(hrl_protection_set_writer_in_sync(get(), yes)); }
    void stop(Limit limit) const {
        check(hrl_protection_stop(get(), detail::millis(limit)));
    }

private:
    struct Quiescing {
        const std::function<void(Limit)> &quiesce;
        const std::function<void()> &release;
        detail::Thrown thrown{};

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
                thrown.keep();
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

/** Sets the path of the program hrl-watchdog for this process. */
inline void set_watchdog(const std::string &path) { check(hrl_set_watchdog(path.c_str())); }

}  // namespace hrl

#endif
