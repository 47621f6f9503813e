/** Failovers and followers. Part of hrl.hpp. */
#ifndef HRL_FAILOVER_HPP
#define HRL_FAILOVER_HPP

#include "protection.hpp"

namespace hrl {

/** A volume that failed over to here, running. Nothing is final before `commit`. */
class FailedOver {
public:
    /**
     * Fails over to the disk of `where`, whose content is lost. `options.struct_bytes` is set here.
     */
    explicit FailedOver(const ProtectionOptions &where, hrl_failover_options options = hrl_failover_options{})
        : events_(where.events_), handle_(detail::make<hrl_failover>([&](hrl_failover **out) {
              options.struct_bytes = sizeof options;
              return hrl_failover_start(where.get(), &options, out);
          })) {}

    hrl_failover *get() const noexcept { return handle_.get(); }
    /** Returns the volume to write to. Free it before the end. */
    Device device() const {
        return Device(
            detail::make<hrl_device>([&](hrl_device **out) { return hrl_failover_device(get(), out); }));
    }
    hrl_failover_status status() const {
        auto status = sized<hrl_failover_status>();
        check(hrl_failover_get_status(get(), &status, nullptr));
        return status;
    }
    hrl_stats stats() const {
        auto status = sized<hrl_failover_status>();
        auto stats = sized<hrl_stats>();
        check(hrl_failover_get_status(get(), &status, &stats));
        return stats;
    }
    hrl_point mark(const std::string &label = "") const {
        auto point = sized<hrl_point>();
        check(hrl_failover_mark(get(), label.c_str(), &point));
        return point;
    }
    void commit() const { check(hrl_failover_commit(get())); }
    std::uint64_t wait_replicated(Limit limit) const {
        std::uint64_t sequence = 0;
        check(hrl_failover_wait_replicated(get(), detail::millis(limit), &sequence));
        return sequence;
    }
    void wait_hydrated(Limit limit) const {
        check(hrl_failover_wait_hydrated(get(), detail::millis(limit)));
    }
    void cancel() const { check(hrl_failover_cancel(get())); }
    void stop(Limit limit) const { check(hrl_failover_stop(get(), detail::millis(limit))); }
    void detach(Limit limit) const { check(hrl_failover_detach(get(), detail::millis(limit))); }

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
        auto done = sized<hrl_catch_up>();
        detail::Watched watched{progress};
        const hrl_status status =
            hrl_follower_catch_up(get(), at.c_str(), watched.callback(), &watched, &done);
        watched.thrown.finish(status);
        return done;
    }
    /**
     * Takes the volume home. A limit of zero does not ask the other site. `done`, if given,
     * receives the report. Exceptions of `progress` come out; if the volume is home by then, its
     * protection ends as in a crash.
     */
    Protection fail_back(const ProtectionOptions &where, Limit planned, const Progress &progress = nullptr,
                         hrl_catch_up *done = nullptr) {
        if (done != nullptr) *done = sized<hrl_catch_up>();
        detail::Watched watched{progress};
        hrl_protection *raw = nullptr;
        const hrl_status status = hrl_follower_fail_back(get(), where.get(), detail::millis(planned),
                                                         watched.callback(), &watched, done, &raw);
        Protection home(where.events_, raw);
        watched.thrown.finish(status);
        return home;
    }
};

}  // namespace hrl

#endif
