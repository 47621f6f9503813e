// A block server in C++: a disk of its own making, protected, and served over NBD until standard input ends.
//   block_server VAULT STATE SOCKET
#include <cstring>
#include <hrl.hpp>
#include <iostream>
#include <mutex>

// Any storage engine stands here; this one is an array.
class Engine : public hrl::BlockDevice {
public:
    std::string name() const override { return "engine"; }
    std::uint64_t size_bytes() const override { return bytes_.size(); }
    void read(std::uint64_t offset, std::uint8_t *buffer, std::size_t length) override {
        std::lock_guard<std::mutex> lock(mutex_);
        std::memcpy(buffer, &bytes_[offset], length);
    }
    void write(std::uint64_t offset, const std::uint8_t *data, std::size_t length, bool) override {
        std::lock_guard<std::mutex> lock(mutex_);
        std::memcpy(&bytes_[offset], data, length);
    }
    void flush() override {}

private:
    std::mutex mutex_;
    std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(16 << 20);
};

int main(int argc, char **argv) try {
    if (argc != 4) return std::cerr << "usage: block_server VAULT STATE SOCKET\n", 2;
    const auto vault = hrl::Vault::create(hrl::Store::directory(argv[1]));
    const auto engine = hrl::Device::from(std::make_unique<Engine>());
    hrl::ProtectionOptions options("engine", engine, vault, argv[2]);
    options.set("crash_point_interval_ms", "1000").on_event([](const hrl::Event &event) {
        std::cerr << event.kind + ": " + event.message + "\n";
    });
    const hrl::Protection protection(options);
    {
        const hrl::NbdServer server(std::string("unix:") + argv[3], "engine", protection.device());
        std::cout << server.uri() << std::endl;
        std::string line;
        while (std::getline(std::cin, line)) std::cout << protection.mark(line).id << std::endl;
    }
    protection.stop(hrl::Limit(60000));
    std::cout << vault.replica("engine").points().size() << " points\n";
    return 0;
} catch (const hrl::Error &error) {
    std::cerr << "block_server: " << error.what() << " [" << error.kind() << "]\n";
    return 1;
}
