/** Stores, keys and vaults. Part of hrl.hpp. */
#ifndef HRL_VAULT_HPP
#define HRL_VAULT_HPP

#include "handle.hpp"

#include <utility>

namespace hrl {

/**
 * A store to implement, with the contract of hrl_store_callbacks. Methods may throw: a
 * std::system_error counts as its errno, anything else as EIO.
 */
class ObjectStore {
public:
    virtual ~ObjectStore() = default;
    virtual std::string name() const { return "store"; }
    /** Creates an object whole and durably; returns false if there is one of this name. */
    virtual bool put(const std::string &name, const std::uint8_t *data, std::size_t length) = 0;
    /** Fills `buffer` from an object, never beyond its end. */
    virtual void get(const std::string &name, std::uint64_t offset, std::uint8_t *buffer, std::size_t length) = 0;
    /** Returns the size of an object; nothing if there is none. */
    virtual std::optional<std::uint64_t> head(const std::string &name) = 0;
    /** Calls `found` with name and size of each object whose name begins with `prefix`. */
    virtual void list(const std::string &prefix,
                      const std::function<void(const std::string &name, std::uint64_t length)> &found) = 0;
    /** Removes an object, if there is one. */
    virtual void remove(const std::string &name) = 0;
};

/** A place for immutable objects, in which a vault is kept. */
class Store : public detail::Handle<hrl_store, hrl_store_free> {
public:
    using Handle::Handle;
    /** Opens a directory, and with `create` makes it if it is absent. */
    static Store directory(const std::string &path, bool create = true) {
        return Store(detail::make<hrl_store>(
            [&](hrl_store **out) { return hrl_store_open_directory(path.c_str(), create, out); }));
    }
    /**
     * Opens a directory or, in builds with the feature `cloud`, an object store: s3://, az://,
     * gs://.
     */
    static Store url(const std::string &url, bool create = true) {
        return Store(detail::make<hrl_store>(
            [&](hrl_store **out) { return hrl_store_open_url(url.c_str(), create, out); }));
    }
    /** Makes a store of an object, which lives as long as something uses the store. */
    static Store from(std::unique_ptr<ObjectStore> store);
};

inline Store Store::from(std::unique_ptr<ObjectStore> store) {
    struct Glue {
        static ObjectStore &of(void *user) { return *static_cast<ObjectStore *>(user); }
        static std::int32_t put(void *user, const char *name, const std::uint8_t *data, std::size_t length) noexcept {
            bool created = false;
            const std::int32_t code = detail::errno_of([&] { created = of(user).put(name, data, length); });
            return code != 0 || created ? code : EEXIST;
        }
        static std::int32_t get(void *user, const char *name, std::uint64_t offset, std::uint8_t *buffer,
                                std::size_t length) noexcept {
            return detail::errno_of([&] { of(user).get(name, offset, buffer, length); });
        }
        static std::int32_t head(void *user, const char *name, std::uint64_t *length) noexcept {
            std::optional<std::uint64_t> found;
            const std::int32_t code = detail::errno_of([&] { found = of(user).head(name); });
            if (code == 0 && found) *length = *found;
            return code != 0 || found ? code : ENOENT;
        }
        static std::int32_t list(void *user, const char *prefix, hrl_list_fn found, void *context) noexcept {
            return detail::errno_of([&] {
                of(user).list(prefix, [&](const std::string &name, std::uint64_t length) {
                    found(context, name.c_str(), length);
                });
            });
        }
        static std::int32_t remove(void *user, const char *name) noexcept {
            return detail::errno_of([&] { of(user).remove(name); });
        }
        static void free(void *user) noexcept { delete static_cast<ObjectStore *>(user); }
    };
    if (!store) throw std::invalid_argument("hrl::Store::from needs a store");
    const std::string name = store->name();
    auto callbacks = sized<hrl_store_callbacks>();
    callbacks.name = name.c_str();
    callbacks.put = &Glue::put;
    callbacks.get = &Glue::get;
    callbacks.head = &Glue::head;
    callbacks.list = &Glue::list;
    callbacks.remove = &Glue::remove;
    callbacks.free = &Glue::free;
    Store made(detail::make<hrl_store>(
        [&](hrl_store **out) { return hrl_store_from_callbacks(&callbacks, store.get(), out); }));
    // From here on the callbacks free it.
    store.release();
    return made;
}

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
    /** Returns its name, which reveals nothing about it. */
    std::string id() const { return hrl_key_id(get()); }
};

class Replica;
struct Finding;
struct GroupPoint;

/** A store with volumes in it. */
class Vault : public detail::Handle<hrl_vault, hrl_vault_free> {
public:
    using Handle::Handle;
    /** Makes a store into a vault, or opens the vault that it is. */
    static Vault create(const Store &store, const Key &key = Key()) {
        return Vault(detail::make<hrl_vault>(
            [&](hrl_vault **out) { return hrl_vault_create(store.get(), key.get(), out); }));
    }
    static Vault open(const Store &store, const Key &key = Key()) {
        return Vault(detail::make<hrl_vault>(
            [&](hrl_vault **out) { return hrl_vault_open(store.get(), key.get(), out); }));
    }
    /** Opens the vault of an agent. It may be away if the state directory knows a volume. */
    static Vault open_for_agent(const std::string &url, const std::string &state, const Key &key = Key()) {
        return Vault(detail::make<hrl_vault>([&](hrl_vault **out) {
            return hrl_vault_open_for_agent(url.c_str(), state.c_str(), key.get(), out);
        }));
    }
    std::vector<hrl_volume_info> volumes() const {
        return detail::collect<hrl_volume_info>(
            [&](auto call, void *user) { return hrl_vault_volumes(get(), call, user); });
    }
    /**
     * Returns the committed group points, oldest first, each once. Adds volumes that cannot be read,
     * which hide no other, to `unread`.
     */
    std::vector<GroupPoint> group_points(std::vector<Finding> *unread = nullptr) const;
    /** Opens one of its volumes. */
    Replica replica(const std::string &name) const;
    /**
     * Accepts that versions of a volume's catalog are lost, see hrl_vault_accept_gap. Returns the last version
     * before the gap and the newest one, both 0 if none is missing.
     */
    std::pair<std::uint64_t, std::uint64_t> accept_gap(const std::string &volume) const {
        std::uint64_t from = 0, until = 0;
        check(hrl_vault_accept_gap(get(), volume.c_str(), &from, &until));
        return {from, until};
    }
    /** Wraps the key of a volume anew with another key-encryption key. */
    hrl_rotation_report rotate_key(const std::string &volume, const Key &new_key) const {
        auto report = sized<hrl_rotation_report>();
        check(hrl_vault_rotate_key(get(), volume.c_str(), new_key.get(), &report));
        return report;
    }
    /** Draws another key for a volume, which encrypts what is new. */
    hrl_rekey_report rekey(const std::string &volume) const {
        auto report = sized<hrl_rekey_report>();
        check(hrl_vault_rekey(get(), volume.c_str(), &report));
        return report;
    }
    /** Makes an encrypted volume unreadable for ever; `flags` are of HRL_SHRED_. */
    hrl_shred_report shred(const std::string &volume, std::uint32_t flags = 0) const {
        auto report = sized<hrl_shred_report>();
        check(hrl_vault_shred(get(), volume.c_str(), flags, &report));
        return report;
    }
    /** Gives up a failover that is not committed and whose process has ended. */
    void cancel_failover(const std::string &volume, const std::string &state) const {
        check(hrl_vault_cancel_failover(get(), volume.c_str(), state.c_str()));
    }
    /** Gives up a failover whose site is lost with its state directory. */
    void abandon_failover(const std::string &volume) const {
        check(hrl_vault_abandon_failover(get(), volume.c_str()));
    }
};

}  // namespace hrl

#endif
