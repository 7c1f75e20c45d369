// Where and with what a scene was recorded: distance, echo, background, recorder. What changes from one recording of a
// species to the next.
#pragma once

#include <array>
#include <vector>

#include "random.hpp"

namespace scenes {

/// A filter of second order (Bristow-Johnson's cookbook).
struct Biquad {
    float b0 = 1, b1 = 0, b2 = 0, a1 = 0, a2 = 0;
    void run(std::vector<float>& x) const;
};
Biquad low_pass(double hz, double q);
Biquad high_pass(double hz, double q);
Biquad peak(double hz, double q, double db);

struct Place {
    double snr_db = 0;             ///< of the calls, while they sound, over the background
    double noise_level = 0;        ///< root mean square of the background
    std::vector<Biquad> distance;  ///< what air and leaves take from the calls
    std::vector<Biquad> recorder;  ///< response of microphone, recorder and file, on everything
    double wet = 0;                ///< level of the echo
    std::array<int, 4> delays{};   ///< of its loops, samples
    std::array<float, 4> feedback{};
    // The background's parts, by level.
    double slope = 0;  ///< 0 white … 1 brown
    double hum_hz = 0, hum = 0;
    double wind = 0, wind_hz = 0;
    double rain = 0, rain_rate = 0;
    double chorus = 0, chorus_hz = 0, chorus_rate = 0;  ///< far insects: a band of noise that pulses
    double neighbour_db = 0;                            ///< of another species' calls against the calls
};

/// `low_db` and `high_db`: the range of signal-to-noise ratios, the nearer the louder. `varied` 0 … 1: how far places
/// and recorders differ.
Place draw_place(double low_db, double high_db, double varied, Random& random);

/// The calls as they arrive: distance and echo.
void travel(std::vector<float>& calls, const Place& place);

/// A background of variance about 1 before the recorder.
std::vector<float> background(size_t frames, const Place& place, Random& random);

/// Root mean square where |x| exceeds a twentieth of its peak; 0 for silence.
double sounding_level(const std::vector<float>& x);

}  // namespace scenes
