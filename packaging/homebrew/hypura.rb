# A template: "make dist" fills in the address (DIST_URL) and checksum of its tarball, and writes the formula to build/dist.
class Hypura < Formula
  desc "Run GGUF language models that do not fit in memory"
  homepage "@HOMEPAGE@"
  url "@URL@"
  version "@VERSION@"
  sha256 "@SHA256@"
  license all_of: ["MIT", "Apache-2.0"]

  depends_on "meson" => :build
  depends_on "ninja" => :build
  depends_on "pkgconf" => :build
  depends_on "shaderc" => :build
  depends_on "vulkan-headers" => :build
  depends_on "jansson"
  depends_on "libmicrohttpd"
  depends_on "pcre2"
  depends_on "utf8proc"
  uses_from_macos "curl"

  on_macos do
    depends_on "libedit" # macOS has no pkg-config file for its own libedit
    depends_on "molten-vk"
    depends_on "vulkan-loader"
  end

  on_linux do
    depends_on "libedit"
    depends_on "liburing"
  end

  def install
    system "meson", "setup", "build", "-Dtests=false", "-Dwerror=false", *std_meson_args
    system "meson", "compile", "-C", "build", "--verbose"
    system "meson", "install", "-C", "build"
  end

  service do
    run [opt_bin/"hypura", "serve"]
    keep_alive successful_exit: false
    log_path var/"log/hypura.log"
    error_log_path var/"log/hypura.log"
  end

  test do
    answer = shell_output("#{bin}/hypura run --temperature 0 --max-tokens 12 --prompt 'What does the ls command do?'")
    assert_match "list directory contents", answer
  end
end
