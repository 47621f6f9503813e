// hrl.hpp: handles move and free themselves, errors carry what the library knows, exceptions cross callbacks.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <hrl.hpp>
#include <iostream>
#include <thread>

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << std::endl;     \
            std::exit(1);                                                                    \
        }                                                                                    \
    } while (0)

static std::string in_directory(const std::string &name) {
    const char *base = std::getenv("TEST_DIRECTORY");
    return std::string(base ? base : ".") + "/" + name;
}

// A disk that throws when it is told to, and counts its deaths.
struct Faulty : hrl::BlockDevice {
    explicit Faulty(std::atomic<int> &deaths) : deaths_(deaths) {}
    ~Faulty() override { deaths_++; }
    std::uint64_t size_bytes() const override { return sizeof bytes; }
    void read(std::uint64_t offset, std::uint8_t *buffer, std::size_t length) override {
        std::memcpy(buffer, bytes + offset, length);
    }
    void write(std::uint64_t offset, const std::uint8_t *data, std::size_t length, bool) override {
        if (fail) throw std::system_error(ENOSPC, std::generic_category());
        std::memcpy(bytes + offset, data, length);
    }
    void flush() override {}
    std::atomic<bool> fail{false};
    std::uint8_t bytes[1 << 20] = {};

private:
    std::atomic<int> &deaths_;
};

static void errors() {
    try {
        hrl::Store::directory("/nowhere/at/all", false);
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.status() == HRL_ERROR_NOT_FOUND && std::string(error.kind()) == "not-found");
        CHECK(error.object() == "/nowhere/at/all" && error.os_code() == ENOENT && !error.offset());
    }
    hrl::Device memory = hrl::Device::memory(8192), empty;
    try {
        memory.read(8192, 1);
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.offset() == std::uint64_t(8192));
    }
    empty = std::move(memory);
    CHECK(empty && !memory && empty.size_bytes() == 8192);
    try {
        memory.flush();
        CHECK(false);
    } catch (const hrl::Error &error) {
        CHECK(error.status() == HRL_ERROR_INVALID_INPUT);
    }
}

int main() {
    errors();
    std::atomic<int> deaths{0}, events{0};
    {
        auto faulty = std::make_unique<Faulty>(deaths);
        Faulty &disk = *faulty;
        const hrl::Device device = hrl::Device::from(std::move(faulty));
        const auto vault = hrl::Vault::create(hrl::Store::directory(in_directory("vault")));
        hrl::ProtectionOptions options("disk", device, vault, in_directory("state"));
        options.set("crash_point_interval_ms", "0").on_event([&](const hrl::Event &event) {
            CHECK(event.volume == "disk");
            events++;
            throw 1;  // dropped
        });
        const hrl::Protection protection(options);
        protection.wait_ordered(hrl::Limit(60000));
        {
            const hrl::Device volume = protection.device();
            std::vector<std::uint8_t> data(4096, 7);
            CHECK(protection.mark("start").sequence > 0);
            volume.write(0, data.data(), data.size());
            disk.fail = true;
            try {
                volume.write(4096, data.data(), data.size());
                CHECK(false);
            } catch (const hrl::Error &error) {
                CHECK(error.status() == HRL_ERROR_FULL && error.os_code() == ENOSPC);
            }
            disk.fail = false;
            const hrl::Tap tap = protection.tap();
            {
                hrl::Ticket ticket = tap.begin(8192, data.size());
                device.write(8192, data.data(), data.size());
                CHECK(ticket.complete(data.data(), data.size()) > 0);
                const hrl::Ticket dropped = tap.begin(16384, 512);
            }
            // The dropped ticket counted as a failed write: that place is read again first.
            protection.wait_ordered(hrl::Limit(60000));
            hrl::Ticket ticket = tap.begin(16384, 512);
            hrl::Buffer buffer(data.data(), 512);
            device.write(16384, buffer.data(), buffer.size());
            ticket.complete(std::move(buffer));
            tap.flush();
            volume.zero(0, 512);
        }
        int released = 0;
        const auto point = protection.mark_quiesced([](hrl::Limit) {}, [&] { released++; }, "app", hrl::Limit(5000));
        CHECK(point.kind == HRL_POINT_APP && released == 1);
        try {
            protection.mark_quiesced([](hrl::Limit) { throw std::runtime_error("busy"); }, [&] { released++; }, "",
                                     hrl::Limit(5000));
            CHECK(false);
        } catch (const std::runtime_error &error) {
            CHECK(std::string(error.what()) == "busy" && released == 2);
        }
        protection.wait_replicated(hrl::Limit(60000));
        CHECK(protection.stats().points == 2);
        const hrl::Replica replica = vault.replica("disk");
        CHECK(replica.points().size() == 2 && vault.volumes().size() == 1);
        CHECK(!replica.timeline().empty() && replica.verify().findings == 0);
        const hrl::Device view = replica.view("app");
        CHECK(view.read(8192, 1)[0] == 7 && view.read(16384, 1)[0] == 7 && view.read(0, 1)[0] == 0);
        const auto report = replica.restore("newest", in_directory("image"), 0, [](auto, auto) { return true; });
        CHECK(report.volume_bytes == 1 << 20);
        try {
            replica.restore("newest", in_directory("image2"), 0, [](auto, auto) { return false; });
            CHECK(false);
        } catch (const hrl::Error &error) {
            CHECK(error.status() == HRL_ERROR_UNAVAILABLE);
        }
        CHECK(replica.changes("start", "app").total_bytes() > 0);
        const hrl::NbdServer server("unix:" + in_directory("s"), "view", view);
        CHECK(server.uri().find("nbd+unix:///view") == 0 && server.stats().connections == 0);
        protection.stop(hrl::Limit(60000));
        CHECK(deaths == 0);
    }
    CHECK(deaths == 1 && events > 0);
    return 0;
}
