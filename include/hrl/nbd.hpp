/** NBD servers. Part of hrl.hpp. */
#ifndef HRL_NBD_HPP
#define HRL_NBD_HPP

#include "replica.hpp"

namespace hrl {

/** A listening NBD server. */
class NbdServer : public detail::Handle<hrl_nbd_server, hrl_nbd_server_free> {
public:
    using Handle::Handle;
    NbdServer(const std::string &address, const std::string &name, const Device &device, std::uint32_t flags = 0,
              const Changes &changes = Changes())
        : Handle(detail::make<hrl_nbd_server>([&](hrl_nbd_server **out) {
              return hrl_nbd_server_start(address.c_str(), name.c_str(), device.get(), changes.get(), flags, out);
          })) {}
    /** Serves with TLS, and nothing without it. `options.struct_bytes` is set here. */
    static NbdServer tls(const std::string &address, const std::string &name, const Device &device, hrl_nbd_tls options,
                         std::uint32_t flags = 0, const Changes &changes = Changes()) {
        options.struct_bytes = sizeof options;
        return NbdServer(detail::make<hrl_nbd_server>([&](hrl_nbd_server **out) {
            return hrl_nbd_server_start_tls(address.c_str(), name.c_str(), device.get(), changes.get(), flags, &options,
                                            out);
        }));
    }
    std::string uri() const { return hrl_nbd_server_uri(get()); }
    /** What carries the bytes: "io_uring" or "threads". */
    std::string engine() const { return hrl_nbd_server_engine(get()); }
    hrl_nbd_stats stats() const {
        auto stats = sized<hrl_nbd_stats>();
        check(hrl_nbd_server_stats(get(), &stats));
        return stats;
    }
    void stop() const { check(hrl_nbd_server_stop(get())); }
};

}  // namespace hrl

#endif
