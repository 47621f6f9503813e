/** Deletion that can be taken back. Part of hrl.hpp. */
#ifndef HRL_MAINTENANCE_HPP
#define HRL_MAINTENANCE_HPP

#include "vault.hpp"

namespace hrl {

/**
 * Brings back what was deleted from the vault at `url` since a time; changes nothing in a dry run. `key`
 * opens encrypted volumes and may be nullptr.
 */
inline std::vector<hrl_undeleted> undelete(const std::string &url, const Key *key, std::int64_t since_ns,
                                           bool dry_run = true) {
    struct Running {
        std::vector<hrl_undeleted> done{};
        detail::Thrown thrown{};

        static bool on_volume(void *user, const hrl_undeleted *volume) noexcept {
            auto *running = static_cast<Running *>(user);
            try {
                running->done.push_back(detail::copied(*volume));
                return true;
            } catch (...) {
                running->thrown.keep();
                return false;
            }
        }
    };
    Running running{};
    running.thrown.finish(hrl_vault_undelete(url.c_str(), key ? key->get() : nullptr, since_ns, dry_run,
                                             &Running::on_volume, &running));
    return std::move(running.done);
}

/** Sets for how long what is deleted from the vault at `url` can be brought back; 0: not at all. */
inline void set_deletion_delay(const std::string &url, std::uint64_t delay_ms) {
    check(hrl_vault_set_deletion_delay(url.c_str(), delay_ms));
}

/**
 * Maintains the vault at `url` once; an empty policy is no retention. Returns the number of volumes that
 * could not be maintained.
 */
inline std::uint64_t maintain(const std::string &url, const Key *key, const std::string &policy = "") {
    std::uint64_t failed = 0;
    check(hrl_vault_maintain(url.c_str(), key ? key->get() : nullptr,
                                     policy.empty() ? nullptr : policy.c_str(), &failed));
    return failed;
}

}  // namespace hrl

#endif
