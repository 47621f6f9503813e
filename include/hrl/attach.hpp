/** Disks in use, protected by points at intervals. Part of hrl.hpp. */
#ifndef HRL_ATTACH_HPP
#define HRL_ATTACH_HPP

#include "protection.hpp"

namespace hrl {

/** A disk in use, protected by points of which each is a clean, audited cut. */
class Attachment {
public:
    /**
     * Attaches to a block device with options that have no device. Cuts are tried for the policy's
     * "cut_limit", then with the file systems on the disk frozen for at most its "freeze_limit".
     */
    Attachment(const ProtectionOptions &options, const std::string &disk)
        : events_(options.events_),
          handle_(detail::make<hrl_attachment>([&](hrl_attachment **out) {
              return hrl_attach_open(options.get(), disk.c_str(), out);
          })) {}
    /**
     * Attaches disks whose points are one cut, and of the group `group`. The options are those of each
     * disk, in their order. A point that any of the attachments makes is made of all.
     */
    static std::vector<Attachment> together(const std::string &group,
                                            const std::vector<const ProtectionOptions *> &options,
                                            const std::vector<std::string> &disks) {
        if (options.size() != disks.size()) {
            throw std::invalid_argument("as many options as disks");
        }
        std::vector<const hrl_protection_options *> given;
        std::vector<const char *> paths;
        for (std::size_t i = 0; i < disks.size(); ++i) {
            given.push_back(options[i]->get());
            paths.push_back(disks[i].c_str());
        }
        std::vector<hrl_attachment *> opened(disks.size());
        std::vector<Attachment> attachments;
        attachments.reserve(disks.size());
        check(hrl_attach_open_together(group.c_str(), given.data(), paths.data(), disks.size(),
                                       opened.data()));
        for (std::size_t i = 0; i < disks.size(); ++i) {
            attachments.push_back(Attachment(options[i]->events_, opened[i]));
        }
        return attachments;
    }
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
    Attachment(std::shared_ptr<std::function<void(const Event &)>> events, hrl_attachment *opened)
        : events_(std::move(events)), handle_(opened) {}
    // Freed after the handle: its threads may call it until then.
    std::shared_ptr<std::function<void(const Event &)>> events_;
    detail::Handle<hrl_attachment, hrl_attach_free> handle_;
};

}  // namespace hrl

#endif
