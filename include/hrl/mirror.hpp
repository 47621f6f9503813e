/** Mirrors of vaults. Part of hrl.hpp. */
#ifndef HRL_MIRROR_HPP
#define HRL_MIRROR_HPP

#include "vault.hpp"

namespace hrl {

/** Makes one vault follow another. */
class Mirror : public detail::Handle<hrl_mirror, hrl_mirror_free> {
public:
    using Handle::Handle;
    /** Follows these volumes; none are all. An empty `scratch` is the directory of the system. */
    Mirror(const Vault &source, const Vault &target, const std::vector<std::string> &volumes = {},
           const std::string &scratch = "")
        : Handle(detail::make<hrl_mirror>([&](hrl_mirror **out) {
              std::vector<const char *> names;
              for (const std::string &volume : volumes) names.push_back(volume.c_str());
              return hrl_mirror_new(source.get(), target.get(), names.data(), names.size(),
                                    scratch.empty() ? nullptr : scratch.c_str(), out);
          })) {}
    /**
     * Catches up once. `go_on` is asked now and then; false ends the run, and what it throws comes
     * out.
     */
    std::vector<hrl_mirrored_volume> run(const std::function<bool()> &go_on = nullptr) const {
        struct Running {
            const std::function<bool()> &go_on;
            std::vector<hrl_mirrored_volume> done{};
            detail::Thrown thrown{};

            static bool on_go_on(void *user) noexcept {
                auto *running = static_cast<Running *>(user);
                try {
                    return running->go_on();
                } catch (...) {
                    running->thrown.keep();
                    return false;
                }
            }
            static bool on_volume(void *user, const hrl_mirrored_volume *volume) noexcept {
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
        Running running{go_on};
        const hrl_status status =
            hrl_mirror_run(get(), go_on ? &Running::on_go_on : nullptr, &Running::on_volume, &running);
        running.thrown.finish(status);
        return std::move(running.done);
    }
};

}  // namespace hrl

#endif
