#include "pipeline/units.hpp"

#include <catch2/catch.hpp>

#include "base/error.hpp"

using namespace biophony;

TEST_CASE("durations") {
    CHECK(parse_duration("--x", "30d") == 30 * 24 * 3600);
    CHECK(parse_duration("--x", "2w") == 14 * 24 * 3600);
    CHECK(parse_duration("--x", "1.5h") == 5400);
    CHECK(parse_duration("--x", "90m") == 5400);
    CHECK(parse_duration("--x", "0s") == 0);
    for (const char* bad :
         {"", "30", "d", "-1d", "30 d", "30days", "1e3d", "nan", "nans", "infd", "30d ", "99999999999999999999w"})
        CHECK_THROWS_WITH(parse_duration("--older-than", bad), Catch::Contains("--older-than: found"));
}

TEST_CASE("sizes") {
    CHECK(parse_bytes("--x", "0") == 0);
    CHECK(parse_bytes("--x", "4096B") == 4096);
    CHECK(parse_bytes("--x", "1.5GB") == 1'500'000'000);
    CHECK(parse_bytes("--x", "10GiB") == 10ull << 30);
    CHECK(parse_bytes("--x", "2TB") == 2'000'000'000'000);
    for (const char* bad : {"", "GB", "-1GB", "10 GB", "10gb", "10G", "1e3GB", "0x10", "inf", "99999999999TB"})
        CHECK_THROWS_WITH(parse_bytes("--keep-bytes", bad), Catch::Contains("--keep-bytes: found"));
    CHECK(bytes_text(999) == "999 B");
    CHECK(bytes_text(1'000) == "1.0 kB");
    CHECK(bytes_text(999'960) == "1.0 MB");
    CHECK(bytes_text(7'600'000) == "7.6 MB");
    CHECK(bytes_text(3'200'000'000'000) == "3.2 TB");
}
