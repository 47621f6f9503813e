/** Changed blocks of disks in use. Part of hrl.hpp. */
#ifndef HRL_TRACKER_HPP
#define HRL_TRACKER_HPP

#include "replica.hpp"

namespace hrl {

/** The checkpoints of a disk or partition that is tracked. No data is kept. */
class Tracker : public detail::Handle<hrl_tracker, hrl_tracker_free> {
public:
    using Handle::Handle;
    /** Opens a disk that is tracked. An empty `state` is the default directory. */
    explicit Tracker(const std::string &disk, const std::string &state = "")
        : Handle(detail::make<hrl_tracker>([&](hrl_tracker **out) {
              return hrl_tracker_open(disk.c_str(), state.empty() ? nullptr : state.c_str(), out);
          })) {}
    /** Begins to track a disk, until stop() or until the machine boots. */
    static Tracker start(const std::string &disk, const std::string &state = "") {
        return Tracker(detail::make<hrl_tracker>([&](hrl_tracker **out) {
            return hrl_tracker_start(disk.c_str(), state.empty() ? nullptr : state.c_str(), out);
        }));
    }
    /** Makes a checkpoint. Make it first, then read the disk. */
    hrl_checkpoint checkpoint(const std::string &name) const {
        auto made = sized<hrl_checkpoint>();
        check(hrl_tracker_checkpoint(get(), name.c_str(), &made));
        return made;
    }
    std::vector<hrl_checkpoint> checkpoints() const {
        return detail::collect<hrl_checkpoint>(
            [&](auto call, void *user) { return hrl_tracker_checkpoints(get(), call, user); });
    }
    /** Returns what changed after a checkpoint, up to another; an empty `to` is now. */
    Changes changes(const std::string &from, const std::string &to = "") const {
        return Changes(detail::make<hrl_changes>([&](hrl_changes **out) {
            return hrl_tracker_changes(get(), from.c_str(), to.empty() ? nullptr : to.c_str(), out);
        }));
    }
    /** Forgets a checkpoint. Its changes count for the next one. */
    void forget(const std::string &name) const { check(hrl_tracker_forget(get(), name.c_str())); }
    hrl_tracker_status status() const {
        auto status = sized<hrl_tracker_status>();
        check(hrl_tracker_status_get(get(), &status));
        return status;
    }
    /** Stops to track the disk, and forgets its checkpoints. */
    void stop() const { check(hrl_tracker_stop(get())); }
};

}  // namespace hrl

#endif
