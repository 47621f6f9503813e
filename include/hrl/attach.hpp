/** Disks in use, protected by points at intervals. Part of hrl.hpp. */
#ifndef HRL_ATTACH_HPP
#define HRL_ATTACH_HPP

#include "protection.hpp"

namespace hrl {

/** A disk in use, protected by points of which each is a clean, audited cut. */
class Attachment {
public:
    /**
     * Attaches to a block device with options that have no device. Cuts are tried for `cut_limit`, then
     * with the file systems on the disk frozen for at most `freeze_limit`; zero freezes none.
     */
    Attachment(const ProtectionOptions &options, const std::string &disk,
               Limit cut_limit = std::chrono::seconds(10),
               Limit freeze_limit = std::chrono::milliseconds(500))
        : events_(options.events_),
          handle_(detail::make<hrl_attachment>([&](hrl_attachment **out) {
              return hrl_attach_open(options.get(), disk.c_str(), detail::millis(cut_limit),
                                     detail::millis(freeze_limit), out);
          })) {}
    hrl_attachment *get() const noexcept { return handle_.get(); }
    /** Makes a point now. */
    hrl_point mark(const std::string &label = "", hrl_point_kind kind = HRL_POINT_CRASH) const {
        auto point = sized<hrl_point>();
        check(hrl_attach_mark(get(), static_cast<std::uint32_t>(kind), label.c_str(), &point));
        return point;
    }
    /** Makes an application-consistent point with the applications of the policy. */
    hrl_point mark_app(const std::string &label = "") const {
        auto point = sized<hrl_point>();
        check(hrl_attach_mark_app(get(), label.c_str(), &point));
        return point;
    }
    /** Returns what cuts have taken. */
    hrl_attach_stats stats() const {
        auto stats = sized<hrl_attach_stats>();
        check(hrl_attach_get_stats(get(), &stats));
        return stats;
    }
    /** Returns the condition of journal, spool and shipping. */
    hrl_stats protection_stats() const {
        auto stats = sized<hrl_stats>();
        check(hrl_attach_protection_stats(get(), &stats));
        return stats;
    }
    void wait_point(Limit limit) const { check(hrl_attach_wait_point(get(), detail::millis(limit))); }
    std::uint64_t wait_replicated(Limit limit) const {
        std::uint64_t sequence = 0;
        check(hrl_attach_wait_replicated(get(), detail::millis(limit), &sequence));
        return sequence;
    }
    void resync() const { check(hrl_attach_resync(get())); }
    void stop(Limit limit) const { check(hrl_attach_stop(get(), detail::millis(limit))); }
    /** Takes the programs of a state directory out of the kernel. */
    static void detach(const std::string &state) { check(hrl_attach_detach(state.c_str())); }

private:
    // Freed after the handle: its threads may call it until then.
    std::shared_ptr<std::function<void(const Event &)>> events_;
    detail::Handle<hrl_attachment, hrl_attach_free> handle_;
};

}  // namespace hrl

#endif
